/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls.h - what a TLS client or server presents and trusts (OpenSSL), for stream.h.
 *
 * TLS 1.2 or newer. A client always verifies the certificate and that it is for the host it wanted
 * (RFC 9525; subject alternative names, an address as such); there is no switch to turn that off.
 */
#ifndef TLS_H
#define TLS_H

#include <stdbool.h>
#include <stddef.h>
#include "ffi_export.h"

struct ssl_st;
struct tls_context;

/*
 * For clients. ca: a file of certificates in PEM form, or a directory of them under hashed names (as
 * /etc/grid-security/certificates); "": those of the system. certificate, key: files in PEM form of what to
 * present when a server asks; "": nothing. NULL and one line in `error` that names the file. Borrows nothing.
 */
FFI_EXPORT struct tls_context *tls_client_new(const char *ca, const char *certificate, const char *key,
					      char *error, size_t error_size);

/*
 * For servers. client_ca: only clients with a certificate of these issuers are let in, file or directory; "":
 * everybody.
 */
FFI_EXPORT struct tls_context *tls_server_new(const char *certificate, const char *key, const char *client_ca,
					      char *error, size_t error_size);

/* Streams that use it go on. NULL is allowed. */
FFI_EXPORT void tls_context_free(struct tls_context *t);

/* A session for one connection, the caller's. host: the name or the address (as text) that the server's
 * certificate must be for; NULL for a server. NULL: no memory, or no such name can be. */
struct ssl_st *tls_session(const struct tls_context *t, bool server, const char *host);

/* Why a session failed, in words. code: the first of OpenSSL's errors, 0: none was noted; system: errno. */
void tls_session_error(struct ssl_st *ssl, unsigned long code, int system, char *text, size_t size);

#endif
