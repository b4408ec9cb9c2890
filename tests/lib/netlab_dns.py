"""A DNS server for tests/lib/netlab.py: netlab_dns.py ADDRESS NAME=ADDRESS[,ADDRESS] NAME=@ALIAS
NAME=silent ... Names that it does not know give NXDOMAIN."""
import ipaddress
import socket
import sys

names = dict(w.split("=") for w in sys.argv[2:])
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready", flush=True)


def text(q):
    labels, at = [], 12
    while q[at]:
        labels.append(q[at + 1:at + 1 + q[at]])
        at += 1 + q[at]
    return b".".join(labels).decode().lower(), at + 1


def wire(name):
    return b"".join(bytes([len(x)]) + x.encode() for x in name.split(".")) + b"\0"


def record(owner, kind, data):
    return owner + kind.to_bytes(2, "big") + b"\0\1\0\0\0\5" + len(data).to_bytes(2, "big") + data


while True:
    q, peer = s.recvfrom(4096)
    name, end = text(q)
    kind = int.from_bytes(q[end:end + 2], "big")
    owner, answers = b"\xc0\x0c", []
    if names.get(name, "").startswith("@"):
        name = names[name][1:]
        answers.append(record(owner, 5, wire(name)))
        owner = wire(name)
    value = names.get(name)
    if value == "silent":
        continue
    for a in value.split(",") if value else []:
        a = ipaddress.ip_address(a)
        if kind == (1 if a.version == 4 else 28):
            answers.append(record(owner, kind, a.packed))
    flags = b"\x81\x80" if value else b"\x81\x83"
    s.sendto(q[:2] + flags + b"\0\1" + len(answers).to_bytes(2, "big") + bytes(4) +
             q[12:end + 4] + b"".join(answers), peer)
