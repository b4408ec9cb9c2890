"""Makes small static x86-64 programs that run anywhere, but say what they need of a processor."""
import struct

LEVELS = {1: 1, 2: 3, 3: 7, 4: 15}  # x86-64-vN as bits of GNU_PROPERTY_X86_ISA_1_NEEDED


def program(level=0, code=b"", exit_code=0, machine=62):
    """An ELF file whose property note asks for x86-64-v<level> (0: it has no note). It writes
    "done\\n" and exits; `code` is behind that: counted, and never run."""
    base, at = 0x400000, 0x200
    text = b"done\n"
    start = b"\xb8\x01\x00\x00\x00" + b"\xbf\x01\x00\x00\x00" + \
        b"\x48\xbe" + struct.pack("<Q", base + at - 16) + \
        b"\xba" + struct.pack("<I", len(text)) + b"\x0f\x05" + \
        b"\xb8\x3c\x00\x00\x00" + b"\xbf" + struct.pack("<I", exit_code) + b"\x0f\x05"
    body = start + code
    end = at + len(body)
    segments = [(1, 5, 0, base, end)]
    note = b""
    if level:
        note = struct.pack("<III4sIIII", 4, 16, 5, b"GNU\0", 0xc0008002, 4, LEVELS[level], 0)
        segments.append((0x6474e553, 4, 0x180, base + 0x180, len(note)))
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + at, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    for kind, flags, offset, address, size in segments:
        head += struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, 8)
    out = bytearray(head.ljust(at, b"\0"))
    out[0x180:0x180 + len(note)] = note
    out[at - 16:at - 16 + len(text)] = text
    return bytes(out) + body


AES = b"\x66\x0f\x38\xdc\xc1" * 8  # aesenc xmm0, xmm1
