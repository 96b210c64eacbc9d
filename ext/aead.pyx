"""ChaCha20-Poly1305 and AES-256 header protection of the frame packet, by libcrypto.

Does NOT allot numbers, keep replay windows or know what a payload means.

Order of a packet's life: `key_new` -> `seal_packet` -> `header_masks` + `apply_mask` -> wire ->
`header_masks` + `apply_mask` -> `open_packet` -> (replay window) -> `key_free`.

libcrypto's TLS record road is a fifth faster than the plain one because nonce, AAD and tag go in one
call.  It wants an AAD of 13 bytes whose first 8 are the counter and whose last 2 are the length; the
frame packet's AAD has that shape, so both roads give the same bytes.  `check_roads` proves it at import,
and again for a library that `use_library` takes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from shadowmesh._ext.aead_library cimport library
from shadowmesh._ext.bytes cimport load32, load64, store16, store32, store64
from shadowmesh._ext.convert cimport buffer_of, sized, unsigned
from shadowmesh._ext.libcrypto cimport (
    EVP_CTRL_AEAD_GET_TAG,
    EVP_CTRL_AEAD_SET_IV_FIXED,
    EVP_CTRL_AEAD_SET_IVLEN,
    EVP_CTRL_AEAD_TLS1_AAD,
    EVP_Cipher,
    EVP_CIPHER_CTX_ctrl,
    EVP_CIPHER_CTX_free,
    EVP_CIPHER_CTX_new,
    EVP_CIPHER_CTX_set_padding,
    EVP_CipherFinal_ex,
    EVP_CipherInit_ex,
    EVP_CipherUpdate,
    EVP_aes_256_ecb,
    EVP_chacha20_poly1305,
    OPENSSL_cleanse,
)

from shadowmesh._ext import aead_library
from shadowmesh.errors import BadPacket

cimport cython


# ---- core: no GIL, no exceptions -------------------------------------------------------------


cdef KeyContext *key_new(const uint8_t *material, bint sealing) noexcept nogil:
    """Contexts for one direction of one epoch, or NULL without memory.  `material`: 76 bytes."""
    cdef KeyContext *keys = <KeyContext *>calloc(1, sizeof(KeyContext))
    if keys == NULL:
        return NULL
    keys.library = library()
    keys.header = EVP_CIPHER_CTX_new()
    if (
        keys.header == NULL
        or EVP_CipherInit_ex(keys.header, EVP_aes_256_ecb(), NULL, material + 44, NULL, 1) != 1
        or EVP_CIPHER_CTX_set_padding(keys.header, 0) != 1
        or not (_new_cipher(keys, material, sealing) if keys.library == NULL else _new_fast(keys, material))
    ):
        key_free(keys)
        return NULL
    return keys


cdef bint _new_cipher(KeyContext *keys, const uint8_t *material, bint sealing) noexcept nogil:
    keys.cipher = EVP_CIPHER_CTX_new()
    return (
        keys.cipher != NULL
        and EVP_CipherInit_ex(keys.cipher, EVP_chacha20_poly1305(), NULL, material, NULL, sealing) == 1
        and EVP_CIPHER_CTX_ctrl(keys.cipher, EVP_CTRL_AEAD_SET_IV_FIXED, 12, <void *>(material + 32)) > 0
    )


cdef bint _new_fast(KeyContext *keys, const uint8_t *material) noexcept nogil:
    memcpy(keys.iv, material + 32, 12)
    keys.fast = keys.library.new(keys.library.algorithm, material, 32, TAG_SIZE)
    return keys.fast != NULL


cdef void key_free(KeyContext *keys) noexcept nogil:
    """Free the contexts; libcrypto wipes the key schedules (its freectx clears them)."""
    if keys == NULL:
        return
    EVP_CIPHER_CTX_free(keys.cipher)
    EVP_CIPHER_CTX_free(keys.header)
    if keys.fast != NULL:
        keys.library.free(keys.fast)
    OPENSSL_cleanse(keys.iv, sizeof(keys.iv))
    free(keys)


cdef inline void packet_aad(uint8_t *aad, const uint8_t *packet, uint32_t lane, size_t size) noexcept nogil:
    """AAD (13) = lane(4) number(4) | first byte | 00 00 | length(2); its first 8 bytes make the nonce."""
    store32(aad, lane)
    memcpy(aad + 4, packet + 9, 4)
    aad[8] = packet[0]
    aad[9] = 0
    aad[10] = 0
    store16(aad + 11, <uint16_t>size)


cdef inline void _fast_nonce(uint8_t *nonce, const KeyContext *keys, const uint8_t *aad) noexcept nogil:
    """IV xor (0000 || lane || number): what libcrypto's TLS record road does by itself."""
    cdef size_t i
    memcpy(nonce, keys.iv, 12)
    for i in range(8):
        nonce[4 + i] ^= aad[i]


cdef bint seal_packet(KeyContext *keys, uint8_t *packet, uint32_t lane, uint32_t number,
                      const uint8_t *payload, size_t size) noexcept nogil:
    """Write first byte, number, ciphertext and tag; the caller has written the receiver id.

    `packet` has room for size + 29 bytes and doesn't overlap `payload`.  The header is protected
    later, per batch.  False only if libcrypto fails, and then nothing may be sent.
    """
    cdef uint8_t aad[13]
    cdef uint8_t nonce[12]
    cdef size_t written = 0
    packet[0] = FIRST_BYTE
    store32(packet + 9, number)
    packet_aad(aad, packet, lane, size)
    if keys.fast != NULL:
        _fast_nonce(nonce, keys, aad)
        return keys.library.seal(keys.fast, packet + HEADER_SIZE, &written, size + TAG_SIZE, nonce, 12,
                                 payload, size, aad, 13) == 1
    if EVP_CIPHER_CTX_ctrl(keys.cipher, EVP_CTRL_AEAD_TLS1_AAD, 13, aad) <= 0:
        return False
    return EVP_Cipher(keys.cipher, packet + HEADER_SIZE, payload, <unsigned int>(size + TAG_SIZE)) > 0


cdef Opened open_packet(KeyContext *keys, uint8_t *packet, size_t size, uint32_t lane) noexcept nogil:
    """Open in place a packet of `size` >= 30 bytes whose header is unprotected already.

    The first byte is authenticated as it came and judged only after the tag, as RFC 9001 section 9.5
    asks: an earlier check would tell a forger about the header mask.
    """
    cdef uint8_t aad[13]
    cdef uint8_t nonce[12]
    cdef size_t written = 0
    if keys.fast != NULL:
        packet_aad(aad, packet, lane, size - OVERHEAD)
        _fast_nonce(nonce, keys, aad)
        if keys.library.open(keys.fast, packet + HEADER_SIZE, &written, size - HEADER_SIZE, nonce, 12,
                             packet + HEADER_SIZE, size - HEADER_SIZE, aad, 13) != 1:
            return OPEN_AUTHENTICATION
        return OPENED if packet[0] == FIRST_BYTE else OPEN_RESERVED
    packet_aad(aad, packet, lane, size - HEADER_SIZE)
    if (
        EVP_CIPHER_CTX_ctrl(keys.cipher, EVP_CTRL_AEAD_TLS1_AAD, 13, aad) <= 0
        or EVP_Cipher(keys.cipher, packet + HEADER_SIZE, packet + HEADER_SIZE,
                      <unsigned int>(size - HEADER_SIZE)) <= 0
    ):
        return OPEN_AUTHENTICATION
    return OPENED if packet[0] == FIRST_BYTE else OPEN_RESERVED


cdef bint header_masks(KeyContext *keys, uint8_t **packets, size_t count, uint8_t *masks) noexcept nogil:
    """Masks of up to MASK_BATCH packets sealed with these keys, 16 bytes each, in one AES call.

    Sample: the 16 bytes after the number.  Every packet has them because it has 30 bytes or more.
    """
    cdef size_t i
    for i in range(count):
        memcpy(masks + i * MASK_SIZE, packets[i] + HEADER_SIZE, MASK_SIZE)
    return EVP_Cipher(keys.header, masks, masks, <unsigned int>(count * MASK_SIZE)) > 0


# ---- boundary ---------------------------------------------------------------------------------


@cython.final
cdef class PacketKeys:
    cdef uint8_t material[MATERIAL_SIZE]
    cdef KeyContext *sealing
    cdef KeyContext *opening
    cdef bint wiped

    def __cinit__(self, material):
        cdef const uint8_t[::1] view = sized(material, MATERIAL_SIZE, "key material")
        memcpy(self.material, &view[0], MATERIAL_SIZE)

    def __dealloc__(self):
        self._wipe()

    cdef void _wipe(self) noexcept:
        key_free(self.sealing)
        key_free(self.opening)
        self.sealing = NULL
        self.opening = NULL
        OPENSSL_cleanse(self.material, MATERIAL_SIZE)
        self.wiped = True

    cdef KeyContext *_context(self, bint sealing) except NULL:
        """Made when first needed: most keys work in one direction only."""
        cdef KeyContext **place = &self.sealing if sealing else &self.opening
        if self.wiped:
            raise ValueError("these keys are wiped")
        if place[0] == NULL:
            place[0] = key_new(self.material, sealing)
            if place[0] == NULL:
                raise MemoryError("no memory for a key")
        return place[0]

    def seal(self, lane, receiver_id, number, payload):
        cdef KeyContext *keys = self._context(True)
        cdef uint32_t lane_number = <uint32_t>unsigned(lane, 0xFFFFFFFF, "lane")
        cdef uint32_t packet_number = <uint32_t>unsigned(number, NUMBER_LIMIT - 1, "packet number")
        cdef const uint8_t[::1] receiver = sized(receiver_id, 8, "receiver id")
        cdef const uint8_t[::1] view = buffer_of(payload, "payload")
        cdef uint8_t mask[MASK_SIZE]
        cdef size_t size = <size_t>view.shape[0]
        if size < 1 or size > LARGEST_PAYLOAD:
            raise ValueError(f"a payload has 1..{<int>LARGEST_PAYLOAD} bytes, not {size}")
        packet = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(size + OVERHEAD))
        cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(packet)
        store64(p + 1, load64(&receiver[0]))
        if (
            not seal_packet(keys, p, lane_number, packet_number, &view[0], size)
            or not header_masks(keys, &p, 1, mask)
        ):
            raise MemoryError("libcrypto could not seal")
        apply_mask(p, mask)
        return packet

    def open(self, lane, packet):
        cdef KeyContext *keys = self._context(False)
        cdef uint32_t lane_number = <uint32_t>unsigned(lane, 0xFFFFFFFF, "lane")
        cdef const uint8_t[::1] view = buffer_of(packet, "packet")
        cdef size_t size = <size_t>view.shape[0]
        cdef uint8_t mask[MASK_SIZE]
        cdef Opened verdict
        if size < SHORTEST_PACKET or size > LARGEST_PAYLOAD + OVERHEAD:
            raise BadPacket("short")
        scratch = PyBytes_FromStringAndSize(<char *>&view[0], <Py_ssize_t>size)
        cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(scratch)
        if not header_masks(keys, &p, 1, mask):
            raise MemoryError("libcrypto could not open")
        apply_mask(p, mask)
        verdict = open_packet(keys, p, size, lane_number)
        if verdict != OPENED:
            raise BadPacket("reserved" if verdict == OPEN_RESERVED else "authentication")
        payload = PyBytes_FromStringAndSize(<char *>(p + HEADER_SIZE), <Py_ssize_t>(size - OVERHEAD))
        return load32(p + 9), payload

    def wipe(self):
        self._wipe()


def plain_seal(key, nonce, aad, plaintext):
    cdef const uint8_t[::1] key_view = sized(key, 32, "key")
    cdef const uint8_t[::1] nonce_view = sized(nonce, 12, "nonce")
    cdef const uint8_t[::1] aad_view = buffer_of(bytes(aad) + b"\0", "aad")
    cdef const uint8_t[::1] view = buffer_of(bytes(plaintext) + b"\0", "plaintext")
    cdef int aad_size = <int>aad_view.shape[0] - 1
    cdef int size = <int>view.shape[0] - 1
    cdef int written = 0
    cdef EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new()
    sealed = PyBytes_FromStringAndSize(NULL, size + TAG_SIZE)
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(sealed)
    cdef bint done = (
        context != NULL
        and EVP_CipherInit_ex(context, EVP_chacha20_poly1305(), NULL, NULL, NULL, 1) == 1
        and EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, 12, NULL) == 1
        and EVP_CipherInit_ex(context, NULL, NULL, &key_view[0], &nonce_view[0], 1) == 1
        and EVP_CipherUpdate(context, NULL, &written, &aad_view[0], aad_size) == 1
        and EVP_CipherUpdate(context, p, &written, &view[0], size) == 1
        and EVP_CipherFinal_ex(context, p + written, &written) == 1
        and EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, p + size) == 1
    )
    EVP_CIPHER_CTX_free(context)
    if not done:
        raise MemoryError("libcrypto could not seal")
    return sealed


cdef object _check_seal(KeyContext *keys, bytes material, int size):
    """Whether `keys` seal a packet of this size as RFC 8439 says, and open it, and no other."""
    cdef uint8_t packet[300 + OVERHEAD]
    cdef const uint8_t[::1] view
    payload = bytes(range(256)) * 2
    view = payload
    counter = (5).to_bytes(4, "big") + (7).to_bytes(4, "big")
    nonce = bytes(a ^ b for a, b in zip(material[32:44], bytes(4) + counter))
    aad = counter + bytes([FIRST_BYTE, 0, 0]) + size.to_bytes(2, "big")
    expected = plain_seal(material[:32], nonce, aad, payload[:size])
    if not seal_packet(keys, packet, 5, 7, &view[0], <size_t>size):
        return False
    return packet[HEADER_SIZE:HEADER_SIZE + size + TAG_SIZE] == expected


cdef object _check_open(KeyContext *keys, bytes material, int size):
    cdef uint8_t packet[300 + OVERHEAD]
    sealed = PacketKeys(material).seal(5, bytes(8), 7, bytes(size))
    cdef const uint8_t[::1] view = sealed
    cdef uint8_t mask[MASK_SIZE]
    cdef uint8_t *p = packet
    cdef size_t whole = <size_t>view.shape[0]
    for tampered in (False, True):
        memcpy(packet, &view[0], whole)
        if not header_masks(keys, &p, 1, mask):
            return False
        apply_mask(packet, mask)
        if tampered:
            packet[whole - 1] ^= 1
        if (open_packet(keys, packet, whole, 5) == OPENED) is tampered:
            return False
    return True


def check_roads():
    """Whether keys seal and open as plain RFC 8439 does, with the library that is in use now."""
    material = bytes(range(MATERIAL_SIZE))
    cdef const uint8_t[::1] view = material
    cdef KeyContext *sealing = key_new(&view[0], True)
    cdef KeyContext *opening = key_new(&view[0], False)
    try:
        if sealing == NULL or opening == NULL:
            return False
        # libcrypto has one road up to 192 bytes and one beyond
        sizes = (1, 15, 16, 17, 192, 193, 300)
        return all(_check_seal(sealing, material, n) and _check_open(opening, material, n) for n in sizes)
    finally:
        key_free(sealing)
        key_free(opening)


def use_library(path):
    aead_library.take(path)
    if not check_roads():
        aead_library.give_back()
        raise ValueError(f"{path} seals otherwise than RFC 8439 says")


def implementation():
    """Which library seals and opens packets now, for people."""
    return "OpenSSL" if library() == NULL else "EVP_AEAD of the aead_library"


if not check_roads():
    raise ImportError("this libcrypto's TLS record road differs from RFC 8439, or it lacks an algorithm")
