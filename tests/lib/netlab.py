"""Network namespaces that a test makes, and nothing of the machine's own touched: a node's, with
one link to a world's, where servers are. No name is registered anywhere: namespaces live as long
as the processes that hold them.

    lab = Lab()                     lab.node, lab.world: Namespace
    lab.world.run("ip", "-br", "a") lab.world.popen([...])
    lab.world.tcp("203.0.113.7", 80)  a server that says who it is and who asked
    lab.close()
"""
import pathlib
import socket
import subprocess
import sys
import time

NODE4, WORLD4 = "198.51.100.2", "198.51.100.1"
NODE6, WORLD6 = "2001:db8:1::2", "2001:db8:1::1"
SERVER = pathlib.Path(__file__).with_name("netlab_server.py")


class Namespace:
    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 100000"],
                                       stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.started = []
        self.run("ip", "link", "set", "lo", "up")

    def enter(self, *argv):
        return ["nsenter", "-t", str(self.holder.pid), "-n", *map(str, argv)]

    def run(self, *argv, check=True, **kw):
        return subprocess.run(self.enter(*argv), check=check, capture_output=True, text=True, **kw)

    def sh(self, script, **kw):
        return self.run("sh", "-ec", script, **kw)

    def popen(self, *argv, **kw):
        p = subprocess.Popen(self.enter(*argv), stdin=subprocess.DEVNULL, **kw)
        self.started.append(p)
        return p

    def sysctl(self, name, value):
        self.sh(f"echo {value} > /proc/sys/{name.replace('.', '/')}")

    def serve(self, *what):
        """tests/lib/netlab_server.py; returns when it listens."""
        p = self.popen(sys.executable, SERVER, *what, stdout=subprocess.PIPE)
        assert p.stdout.readline() == b"ready\n", what
        return p

    def dns(self, addr, **names):
        """tests/lib/netlab_dns.py; "_" in a name stands for a dot."""
        p = self.popen(sys.executable, SERVER.with_name("netlab_dns.py"), addr,
                       *(f"{k.replace('_', '.')}={v}" for k, v in names.items()),
                       stdout=subprocess.PIPE)
        assert p.stdout.readline() == b"ready\n", names
        return p

    def close(self):
        for p in self.started:
            p.kill()
            p.wait()
        self.holder.kill()
        self.holder.wait()


class Lab:
    """node --- world. The node's way out is the world."""

    def __init__(self, forward=True):
        self.node, self.world = Namespace(), Namespace()
        self.node.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "w0", "netns",
                      str(self.world.holder.pid))
        for ns, link, v4, v6 in ((self.node, "up0", NODE4, NODE6),
                                 (self.world, "w0", WORLD4, WORLD6)):
            ns.run("ip", "addr", "add", f"{v4}/24", "dev", link)
            ns.run("ip", "addr", "add", f"{v6}/64", "dev", link, "nodad")
            ns.run("ip", "link", "set", link, "up")
        self.node.run("ip", "route", "add", "default", "via", WORLD4)
        self.node.run("ip", "-6", "route", "add", "default", "via", WORLD6)
        # A new namespace takes IPv4's from the machine.
        self.node.sysctl("net.ipv4.ip_forward", int(forward))
        self.node.sysctl("net.ipv6.conf.all.forwarding", int(forward))

    def address(self, *addrs):
        """More addresses of the world, reached through its link."""
        for a in addrs:
            self.world.run("ip", "addr", "add", a, "dev", "lo", *(["nodad"] if ":" in a else []))

    def links(self):
        """Our interfaces in the node's namespace."""
        out = self.node.run("ip", "-o", "link").stdout
        names = [x.split(": ")[1].split("@")[0] for x in out.splitlines()]
        return [n for n in names if n.startswith("ag")]

    def tables(self):
        out = self.node.run("nft", "list", "tables").stdout
        return [x.split()[-1] for x in out.splitlines() if "agent_" in x]

    def close(self):
        self.node.close()
        self.world.close()
