"""A server for tests/lib/netlab.py: netlab_server.py tcp|udp ADDRESS PORT ... Every TCP
connection and every datagram is answered with one line, "ADDRESS PORT from PEER": who was asked,
and by whom."""
import selectors
import socket
import sys

words = sys.argv[1:]
sel = selectors.DefaultSelector()
while words:
    proto, addr, port = words[:3]
    del words[:3]
    family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_IP, 15, 1) if family == socket.AF_INET else \
        s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IP_FREEBIND
    s.bind((addr, int(port)))
    if proto == "tcp":
        s.listen(64)
    sel.register(s, selectors.EVENT_READ, (proto, addr, port))
print("ready", flush=True)
while True:
    for key, _ in sel.select():
        s = key.fileobj
        proto, addr, port = key.data
        if proto == "udp":
            _, peer = s.recvfrom(2048)
            s.sendto(f"{addr} {port} from {peer[0]}\n".encode(), peer)
        else:
            c, peer = s.accept()
            try:
                c.settimeout(1)
                # A line, or all up to the end: closing with bytes unread would be a reset.
                while (got := c.recv(65536)) and not got.endswith(b"\n"):
                    pass
                c.sendall(f"{addr} {port} from {peer[0]}\n".encode())
            except OSError:
                pass
            c.close()
