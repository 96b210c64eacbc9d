"""A BoringSSL-class libcrypto found at run time: its EVP_AEAD interface as function pointers."""

from libc.stdint cimport uint8_t


ctypedef void *(*context_new_function)(const void *algorithm, const uint8_t *key, size_t key_size,
                                       size_t tag_size) noexcept nogil
ctypedef void (*context_free_function)(void *context) noexcept nogil
ctypedef int (*transform_function)(const void *context, uint8_t *output, size_t *written, size_t room,
                                   const uint8_t *nonce, size_t nonce_size, const uint8_t *data,
                                   size_t size, const uint8_t *aad, size_t aad_size) noexcept nogil

cdef struct Library:
    const void *algorithm          # EVP_aead_chacha20_poly1305()
    context_new_function new
    context_free_function free
    transform_function seal
    transform_function open

cdef Library *library() noexcept nogil
