/* SPDX-License-Identifier: Apache-2.0 */
#include "tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tls_library.h"

struct tls_context {
	SSL_CTX *ssl;
	bool server;
};

/* Where systems keep their certificates, when OpenSSL's own place (of the system on which a static binary was
 * built) is not there. */
static const char *const system_files[] = {
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
};

static const char *reason(void)
{
	unsigned long code = openssl.ERR_peek_last_error();
	unsigned long first = openssl.ERR_peek_error();
	const char *text = openssl.ERR_reason_error_string(code);

	/* Of a file that cannot be opened the first error is the system's. */
	if (ERR_SYSTEM_ERROR(first))
		return strerror(ERR_GET_REASON(first));
	return text ? text : "cannot be used";
}

static bool refuse(char *error, size_t size, const char *what, const char *path)
{
	snprintf(error, size, "%s %s: %s", what, path, reason());
	openssl.ERR_clear_error();
	return false;
}

static bool use_system_ca(SSL_CTX *ssl)
{
	if (openssl.SSL_CTX_set_default_verify_paths(ssl) != 1)
		return false;
	if (access(openssl.X509_get_default_cert_file(), R_OK) == 0 ||
	    access(openssl.X509_get_default_cert_dir(), R_OK | X_OK) == 0 ||
	    getenv(openssl.X509_get_default_cert_file_env()) ||
	    getenv(openssl.X509_get_default_cert_dir_env()))
		return true;
	for (size_t i = 0; i < sizeof(system_files) / sizeof(*system_files); i++) {
		if (access(system_files[i], R_OK) == 0)
			return openssl.SSL_CTX_load_verify_file(ssl, system_files[i]) == 1;
	}
	return true;
}

static bool use_ca(SSL_CTX *ssl, const char *ca, char *error, size_t size)
{
	struct stat st;
	int ok;

	if (!ca[0]) {
		if (use_system_ca(ssl))
			return true;
		return refuse(error, size, "certificates of", "the system");
	}
	if (stat(ca, &st) == 0 && S_ISDIR(st.st_mode))
		ok = openssl.SSL_CTX_load_verify_dir(ssl, ca);
	else
		ok = openssl.SSL_CTX_load_verify_file(ssl, ca);
	return ok == 1 || refuse(error, size, "certificates to trust,", ca);
}

static bool use_certificate(SSL_CTX *ssl, const char *certificate, const char *key, char *error, size_t size)
{
	if (openssl.SSL_CTX_use_certificate_chain_file(ssl, certificate) != 1)
		return refuse(error, size, "certificate", certificate);
	if (openssl.SSL_CTX_use_PrivateKey_file(ssl, key, SSL_FILETYPE_PEM) != 1)
		return refuse(error, size, "key", key);
	return openssl.SSL_CTX_check_private_key(ssl) == 1 || refuse(error, size, "key", key);
}

static struct tls_context *context_new(bool server, char *error, size_t size)
{
	const SSL_METHOD *method;
	struct tls_context *t;

	if (tls_library_need(error, size) < 0)
		return NULL;
	method = server ? openssl.TLS_server_method() : openssl.TLS_client_method();
	t = calloc(1, sizeof(*t));
	openssl.ERR_clear_error();
	if (t)
		t->ssl = openssl.SSL_CTX_new(method);
	if (!t || !t->ssl) {
		free(t);
		snprintf(error, size, "TLS: out of memory");
		return NULL;
	}
	t->server = server;
	openssl.SSL_CTX_ctrl(t->ssl, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
	openssl.SSL_CTX_set_options(t->ssl, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	/* libevent writes from a buffer that may move, and sends on what was not taken. */
	openssl.SSL_CTX_ctrl(t->ssl, SSL_CTRL_MODE,
			     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				     SSL_MODE_RELEASE_BUFFERS,
			     NULL);
	return t;
}

struct tls_context *tls_client_new(const char *ca, const char *certificate, const char *key, char *error,
				   size_t error_size)
{
	struct tls_context *t = context_new(false, error, error_size);

	if (!t)
		return NULL;
	openssl.SSL_CTX_set_verify(t->ssl, SSL_VERIFY_PEER, NULL);
	if (!use_ca(t->ssl, ca, error, error_size) ||
	    (certificate[0] && !use_certificate(t->ssl, certificate, key, error, error_size))) {
		tls_context_free(t);
		return NULL;
	}
	return t;
}

static bool use_client_ca(SSL_CTX *ssl, const char *ca, char *error, size_t size)
{
	struct stat st;

	if (!use_ca(ssl, ca, error, size))
		return false;
	openssl.SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	/* The names of the issuers go to clients that choose by them; a directory may hold hundreds. */
	if (stat(ca, &st) == 0 && S_ISREG(st.st_mode))
		openssl.SSL_CTX_set_client_CA_list(ssl, openssl.SSL_load_client_CA_file(ca));
	return true;
}

struct tls_context *tls_server_new(const char *certificate, const char *key, const char *client_ca,
				   char *error, size_t error_size)
{
	static const unsigned char session_name[] = "flowd-lua";
	struct tls_context *t = context_new(true, error, error_size);

	if (!t)
		return NULL;
	openssl.SSL_CTX_set_session_id_context(t->ssl, session_name, sizeof(session_name) - 1);
	if (!use_certificate(t->ssl, certificate, key, error, error_size) ||
	    (client_ca[0] && !use_client_ca(t->ssl, client_ca, error, error_size))) {
		tls_context_free(t);
		return NULL;
	}
	return t;
}

void tls_context_free(struct tls_context *t)
{
	if (!t)
		return;
	openssl.SSL_CTX_free(t->ssl);
	free(t);
}

static bool expect_host(SSL *ssl, const char *host)
{
	X509_VERIFY_PARAM *param = openssl.SSL_get0_param(ssl);

	if (openssl.X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1)
		return true;
	openssl.ERR_clear_error();
	openssl.X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return host[0] && openssl.SSL_set1_host(ssl, host) == 1 &&
	       openssl.SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, (void *)host) ==
		       1;
}

struct ssl_st *tls_session(const struct tls_context *t, bool server, const char *host)
{
	SSL *ssl;

	if (t->server != server || (!server && !host))
		return NULL;
	ssl = openssl.SSL_new(t->ssl);
	if (ssl && !server && !expect_host(ssl, host)) {
		openssl.SSL_free(ssl);
		ssl = NULL;
	}
	return ssl;
}

void tls_session_error(struct ssl_st *ssl, unsigned long code, int system, char *text, size_t size)
{
	long verified = openssl.SSL_get_verify_result(ssl);
	const char *words = code ? openssl.ERR_reason_error_string(code) : NULL;

	if (verified == X509_V_ERR_HOSTNAME_MISMATCH || verified == X509_V_ERR_IP_ADDRESS_MISMATCH)
		snprintf(text, size, "TLS: the certificate is for another host (%s)",
			 openssl.X509_verify_cert_error_string(verified));
	else if (verified != X509_V_OK)
		snprintf(text, size, "TLS: the certificate is not accepted: %s",
			 openssl.X509_verify_cert_error_string(verified));
	else if (words)
		snprintf(text, size, "TLS: %s", words);
	else if (system)
		snprintf(text, size, "%s", strerror(system));
	else
		snprintf(text, size,
			 "TLS: the connection ended without the peer saying so: it may be cut off");
}
