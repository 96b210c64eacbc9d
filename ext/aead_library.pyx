"""Finds ChaCha20-Poly1305 in a BoringSSL-class libcrypto (BoringSSL, AWS-LC) that is named at run time.

Does NOT decide whether it may be used: aead.pyx tests it against OpenSSL first.  Once taken, a library
stays for the life of the process, because keys point into it.

Its symbols carry the names of OpenSSL's own; RTLD_LOCAL and RTLD_DEEPBIND keep the two apart.
"""

from libc.stdlib cimport calloc, free


cdef extern from "<dlfcn.h>" nogil:
    """
    #ifndef RTLD_DEEPBIND
    #define RTLD_DEEPBIND 0
    #endif
    """
    int RTLD_NOW, RTLD_LOCAL, RTLD_DEEPBIND
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    char *dlerror()


ctypedef const void *(*algorithm_function)() noexcept nogil

cdef Library *_taken = NULL


cdef Library *library() noexcept nogil:
    """The library that keys are made with; NULL: OpenSSL's libcrypto."""
    return _taken


cdef void *_symbol(void *handle, bytes name, str path) except NULL:
    cdef void *found = dlsym(handle, name)
    if found == NULL:
        raise ValueError(f"{path} has no {name.decode()}: it is no BoringSSL or AWS-LC")
    return found


def take(path):
    cdef void *handle
    cdef Library *made
    global _taken
    if _taken != NULL:
        raise ValueError("an AEAD library is in use already")
    name = path.encode()
    handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)
    if handle == NULL:
        raise ValueError(dlerror().decode(errors="replace"))
    made = <Library *>calloc(1, sizeof(Library))
    if made == NULL:
        raise MemoryError("no memory for an AEAD library")
    try:
        made.algorithm = (<algorithm_function>_symbol(handle, b"EVP_aead_chacha20_poly1305", path))()
        made.new = <context_new_function>_symbol(handle, b"EVP_AEAD_CTX_new", path)
        made.free = <context_free_function>_symbol(handle, b"EVP_AEAD_CTX_free", path)
        made.seal = <transform_function>_symbol(handle, b"EVP_AEAD_CTX_seal", path)
        made.open = <transform_function>_symbol(handle, b"EVP_AEAD_CTX_open", path)
    except ValueError:
        free(made)
        raise
    _taken = made


def give_back():
    """Only for a library that failed its test: no key was made with it."""
    global _taken
    free(_taken)
    _taken = NULL
