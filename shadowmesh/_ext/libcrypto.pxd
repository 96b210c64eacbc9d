"""Declarations of the part of libcrypto (OpenSSL 3) that the data plane uses; no code."""


cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    int EVP_CTRL_AEAD_SET_IVLEN, EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    int EVP_CTRL_AEAD_SET_IV_FIXED, EVP_CTRL_AEAD_TLS1_AAD
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *context)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *context, int command, int size, void *value)
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *context, int padding)
    const EVP_CIPHER *EVP_chacha20_poly1305()
    const EVP_CIPHER *EVP_aes_256_ecb()
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, void *engine,
                          const unsigned char *key, const unsigned char *iv, int sealing)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *context, unsigned char *output, int *written,
                         const unsigned char *data, int size)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *context, unsigned char *output, int *written)
    int EVP_Cipher(EVP_CIPHER_CTX *context, unsigned char *output, const unsigned char *data,
                   unsigned int size)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *data, size_t size)
    int CRYPTO_memcmp(const void *a, const void *b, size_t size)
