/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls_library.h - OpenSSL, and libevent's use of it, for tls.c and stream.c: library.h.
 */
#ifndef TLS_LIBRARY_H
#define TLS_LIBRARY_H

#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "library.h"

#define TLS_FUNCTIONS(X)                      \
	X(ERR_clear_error)                    \
	X(ERR_peek_error)                     \
	X(ERR_peek_last_error)                \
	X(ERR_reason_error_string)            \
	X(SSL_CTX_check_private_key)          \
	X(SSL_CTX_ctrl)                       \
	X(SSL_CTX_free)                       \
	X(SSL_CTX_load_verify_dir)            \
	X(SSL_CTX_load_verify_file)           \
	X(SSL_CTX_new)                        \
	X(SSL_CTX_set_client_CA_list)         \
	X(SSL_CTX_set_default_verify_paths)   \
	X(SSL_CTX_set_options)                \
	X(SSL_CTX_set_session_id_context)     \
	X(SSL_CTX_set_verify)                 \
	X(SSL_CTX_use_PrivateKey_file)        \
	X(SSL_CTX_use_certificate_chain_file) \
	X(SSL_ctrl)                           \
	X(SSL_free)                           \
	X(SSL_get0_param)                     \
	X(SSL_get_shutdown)                   \
	X(SSL_get_verify_result)              \
	X(SSL_load_client_CA_file)            \
	X(SSL_new)                            \
	X(SSL_set1_host)                      \
	X(SSL_set_shutdown)                   \
	X(SSL_shutdown)                       \
	X(TLS_client_method)                  \
	X(TLS_server_method)                  \
	X(X509_VERIFY_PARAM_set1_ip_asc)      \
	X(X509_VERIFY_PARAM_set_hostflags)    \
	X(X509_get_default_cert_dir)          \
	X(X509_get_default_cert_dir_env)      \
	X(X509_get_default_cert_file)         \
	X(X509_get_default_cert_file_env)     \
	X(X509_verify_cert_error_string)      \
	X(bufferevent_get_openssl_error)      \
	X(bufferevent_openssl_get_ssl)        \
	X(bufferevent_openssl_socket_new)

struct tls_library {
	TLS_FUNCTIONS(LIBRARY_POINTER)
};

/* Valid after tls_library_need(). */
extern struct tls_library openssl;

/* Before the first session. 0, or -ENOENT and the reason in `error`. */
int tls_library_need(char *error, size_t error_size);

#endif
