"""What the kernel's resctrl file system does, without the file system: the tree, its files' texts,
its rules, limits and error strings (fs/resctrl and Documentation/filesystems/resctrl.rst), and a
simple model of caches for the numbers. resctrl_fs.py mounts it.

Errors are OSError with the kernel's number; the words are in info/last_cmd_status.
"""
import collections
import errno
import json
import math
import os
import re
import threading
import time

FILES_RW = ("cpus", "cpus_list", "tasks", "schemata", "mode")
OCCUPANCY_TAU, LIMBO_TAU, LIMBO_CHECK = 0.5, 2.0, 1.0
LINE = 64


class Options:
    """One machine. Defaults: two sockets of a Skylake server, 11 ways."""

    def __init__(self, **values):
        self.domains = 2
        self.cpus = 32
        self.l3 = True
        self.cbm_len = 11
        self.min_cbm_bits = 1
        self.shareable = 0x600
        self.closids = 16
        self.way_bytes = 2359296
        self.mb = True
        self.mb_closids = 8
        self.mb_min = 10
        self.mb_gran = 10
        self.mba_mbps = False
        self.cdp = False
        self.mon = True
        self.rmids = 160
        self.threshold = 98304
        self.features = ["llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"]
        self.old_format = False
        self.limbo = True
        for k, v in values.items():
            if not hasattr(self, k):
                raise ValueError(f"no option '{k}'")
            setattr(self, k, v)


class Group:
    def __init__(self, name, closid, rmid, parent=None):
        self.name, self.closid, self.rmid, self.parent = name, closid, rmid, parent
        self.mode = "shareable"
        self.cpus = set()
        self.schemata = {}  # resource -> {domain: value}
        self.mon = {}       # MON groups of a CTRL_MON one
        self.occ = collections.defaultdict(float)
        self.mbm = collections.defaultdict(float)


def fail(number, *words):
    e = OSError(number, os.strerror(number))
    e.words = "\n".join(words)
    raise e


def consecutive(mask):
    return mask == 0 or (mask // (mask & -mask) + 1) & (mask // (mask & -mask)) == 0


def number(text):
    """As kstrtoul with base 0 for pids and domains."""
    return int(text) if re.fullmatch(r"[0-9]+", text) else None


class Proc:
    """Processes as /proc shows them."""
    tick = os.sysconf("SC_CLK_TCK")

    @staticmethod
    def stat(pid):
        """(parent, start in seconds since boot, processor), or None."""
        try:
            with open(f"/proc/{pid}/stat") as f:
                rest = f.read().rpartition(")")[2].split()
        except OSError:
            return None
        return (None if rest[0] in "ZX" else int(rest[1]), int(rest[19]) / Proc.tick, int(rest[36]))

    @staticmethod
    def command(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    @staticmethod
    def all():
        return [int(x) for x in os.listdir("/proc") if x.isdigit()]

    @staticmethod
    def threads(pid):
        try:
            return [int(x) for x in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            return []

    @staticmethod
    def now():
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class Model:
    def __init__(self, options, journal=None, rules=None):
        self.o = options
        self.lock = threading.RLock()
        self.status = ""
        self.journal_path, self.rules_path = journal, rules
        self.rules_at, self.rules = None, {}
        closids = [c for on, c in ((options.l3, options.closids), (options.mb, options.mb_closids))
                   if on]
        n = min(closids) if closids else 1
        self.closids = set(range(1, max(1, n // 2 if options.cdp else n)))
        self.rmids = set(range(1, options.rmids)) if options.mon else set()
        self.limbo = {}      # rmid -> {domain: bytes}
        self.limbo_checked = Proc.now()
        self.root = Group("", 0, 0)
        self.root.cpus = set(range(options.cpus))
        for r in self.resources():
            self.root.schemata[r] = {d: self.most(r) for d in range(options.domains)}
        self.groups = {}     # CTRL_MON groups by name
        self.history = {}    # tid -> [(when, group)], the newest last
        self.advanced = Proc.now()

    # ---- what there is

    def resources(self):
        cache = ["L3DATA", "L3CODE"] if self.o.cdp else ["L3"]
        return (["MB"] if self.o.mb else []) + (cache if self.o.l3 else [])

    def most(self, resource):
        if resource != "MB":
            return (1 << self.o.cbm_len) - 1
        return 4294967295 if self.o.mba_mbps else 100

    def control(self):
        return [self.root, *self.groups.values()]

    def every(self):
        return [g for c in self.control() for g in (c, *c.mon.values())]

    # ---- tests' own

    def journal(self, **what):
        if self.journal_path:
            with open(self.journal_path, "a") as f:
                f.write(json.dumps({"at": time.time(), **what}) + "\n")

    def rule(self, name, default=None):
        try:
            at = os.stat(self.rules_path).st_mtime_ns if self.rules_path else None
        except OSError:
            at = None
        if at != self.rules_at:
            try:
                with open(self.rules_path) as f:
                    self.rules = json.load(f)
                self.rules_at = at
            except (OSError, ValueError, TypeError):
                self.rules, self.rules_at = {}, None
        return self.rules.get(name, default)

    def faults(self, call):
        """{"faults": {"mkdir": ["ENOSPC", "Out of RMIDs"]}}: the call fails so, until the rule
        goes."""
        f = self.rule("faults", {}).get(call)
        if f:
            fail(getattr(errno, f[0]), *f[1:])

    # ---- tasks

    def group_of(self, tid, when=None, depth=0):
        """Where it was then: where it was put, else where its parent was when it began."""
        moves = self.history.get(tid, [])
        for t, group in reversed(moves):
            if when is None or t <= when + 0.01:  # start times are told in hundredths
                return group
        st = Proc.stat(tid)
        if st is None or st[0] in (None, 0) or depth > 64:
            return self.root
        return self.group_of(st[0], st[1], depth + 1)

    def tasks_of(self, group):
        """Live threads in it. A CTRL_MON group lists those of its MON groups, too."""
        found = []
        for pid in Proc.all():
            st = Proc.stat(pid)
            if st is None or st[0] is None:
                continue
            g = self.group_of(pid)
            if g is group or (group.parent is None and g.parent is group):
                found += Proc.threads(pid) or [pid]
        return sorted(set(found))

    def move(self, tid, group):
        self.history.setdefault(tid, []).append((Proc.now(), group))

    def write_tasks(self, group, data, caller):
        text = data.rstrip("\n")
        for word in text.split(","):
            tid = number(word.strip())
            if tid is None:
                fail(errno.EINVAL, f"Task list parsing error pid {word.strip()}")
            tid = tid or caller
            st = Proc.stat(tid)
            if st is None or st[0] is None:
                fail(errno.ESRCH, f"No task {tid}", f"Error while processing task {tid}")
            if group.parent is not None:
                now = self.group_of(tid)
                if (now if now.parent is None else now.parent) is not group.parent:
                    fail(errno.EINVAL, "Can't move task to different control group",
                         f"Error while processing task {tid}")
            self.advance()
            self.move(tid, group)
            self.journal(op="task", group=self.path_of(group), pid=tid, command=Proc.command(tid))

    def path_of(self, g):
        if g is self.root:
            return "/"
        if g.parent is None:
            return f"/{g.name}"
        return f"{self.path_of(g.parent).rstrip('/')}/mon_groups/{g.name}"

    # ---- numbers

    def advance(self):
        """Caches and counters up to now."""
        now = Proc.now()
        dt, self.advanced = now - self.advanced, now
        if dt <= 0:
            return
        self.limbo_step(now, dt)
        loads = self.rule("loads", [])
        per_domain = max(1, self.o.cpus // self.o.domains)
        wants, misses, streams = {}, {}, {}
        for pid in Proc.all() if loads else []:
            command = Proc.command(pid)
            load = next((x for x in loads if x["match"] in command), None)
            st = Proc.stat(pid) if load else None
            if st is None or st[0] is None:
                continue
            key = (self.group_of(pid), min(st[2] // per_domain, self.o.domains - 1))
            wants[key] = wants.get(key, 0) + load["working_set"]
            misses[key] = misses.get(key, 0) + load.get("misses", 0)
            streams[key] = streams.get(key, 0) + load.get("stream", 0)
        for g in self.every():
            for d in range(self.o.domains):
                key = (g, d)
                want = wants.get(key, 0)
                sharers = sum(1 for (h, e) in wants if e == d and h.closid == g.closid) or 1
                ways = bin(self.mask_of(g, d)).count("1")
                goal = min(want, ways * self.o.way_bytes / sharers)
                g.occ[d] = goal + (g.occ[d] - goal) * math.exp(-dt / OCCUPANCY_TAU)
                missing = 1 - min(1, g.occ[d] / want) if want else 0
                g.mbm[d] += (misses.get(key, 0) * missing + streams.get(key, 0)) * dt * LINE

    def mask_of(self, g, d):
        c = g if g.parent is None else g.parent
        r = "L3DATA" if self.o.cdp else "L3"
        return c.schemata[r][d] if r in c.schemata else self.most("L3")

    def limbo_step(self, now, dt):
        for left in self.limbo.values():
            for d in left:
                left[d] *= math.exp(-dt / LIMBO_TAU)
        if now - self.limbo_checked >= LIMBO_CHECK:
            self.limbo_checked = now
            for rmid in [r for r, left in self.limbo.items()
                         if all(v < self.o.threshold for v in left.values())]:
                del self.limbo[rmid]
                self.rmids.add(rmid)

    # ---- groups

    def take_rmid(self):
        if not self.o.mon:
            return 0
        if not self.rmids:
            fail(errno.EBUSY if self.limbo else errno.ENOSPC, "Out of RMIDs")
        rmid = min(self.rmids)
        self.rmids.discard(rmid)
        return rmid

    def put_rmid(self, g):
        if not self.o.mon:
            return
        if self.o.limbo:
            self.limbo[g.rmid] = dict(g.occ)
        else:
            self.rmids.add(g.rmid)

    def free_mask(self, r, d):
        """Shareable and unused bits, the first run of them."""
        used = 0
        for g in self.control():
            if g.mode == "exclusive":
                used |= g.schemata[r][d]
        bits = self.most("L3") & ~used
        if bits == 0:
            return 0
        low = bits & -bits
        end = low
        while bits & end:
            end <<= 1
        return end - low

    def make_control(self, name):
        if "\n" in name:
            fail(errno.EINVAL)
        if not self.closids:
            fail(errno.ENOSPC, "Out of CLOSIDs")
        g = Group(name, min(self.closids), None)
        for r in self.resources():
            g.schemata[r] = {}
            for d in range(self.o.domains):
                mask = self.most("MB") if r == "MB" else self.free_mask(r, d)
                if r != "MB" and bin(mask).count("1") < self.o.min_cbm_bits:
                    fail(errno.ENOSPC, f"No space on {r}:{d}")
                g.schemata[r][d] = mask
        g.rmid = self.take_rmid()
        self.closids.discard(g.closid)
        self.groups[name] = g

    def make_mon(self, parent, name):
        if "\n" in name:
            fail(errno.EINVAL)
        if name == "mon_groups" or not self.o.mon:
            fail(errno.EPERM)
        parent.mon[name] = Group(name, parent.closid, self.take_rmid(), parent)

    def leave(self, g, to):
        for moves in self.history.values():
            if moves[-1][1] is g:
                moves.append((Proc.now(), to))
        self.put_rmid(g)

    def remove(self, g):
        if g.parent is not None:
            self.leave(g, g.parent)
            del g.parent.mon[g.name]
            return
        for m in list(g.mon.values()):
            self.leave(m, self.root)
        self.leave(g, self.root)
        self.root.cpus |= g.cpus
        self.closids.add(g.closid)
        del self.groups[g.name]

    # ---- schemata, mode, cpus

    def show_schemata(self, g):
        width = max(len(r) for r in self.resources())
        width += 4 if not self.o.cdp and self.o.l3 else 0
        out = ""
        for r in self.resources():
            if r != "MB" and g.mode == "pseudo-locksetup":
                out += f"{r}:uninitialized\n"
                continue
            if self.o.old_format:
                form = "{:6d}" if r == "MB" else f"{{:0{(self.o.cbm_len + 3) // 4}x}}"
            else:
                form = "{:d}" if r == "MB" else "{:x}"
            out += f"{r:>{width}}:" + ";".join(
                f"{d}=" + form.format(v) for d, v in g.schemata[r].items()) + "\n"
        return out

    def mask_checked(self, g, r, d, text):
        try:
            mask = int(text, 16)
        except ValueError:
            fail(errno.EINVAL, f"Non-hex character in the mask {text}")
        if mask > self.most("L3") or mask == 0:
            fail(errno.EINVAL, "Mask out of range")
        if not consecutive(mask):
            fail(errno.EINVAL, f"The mask {mask:x} has non-consecutive 1-bits")
        if bin(mask).count("1") < self.o.min_cbm_bits:
            fail(errno.EINVAL, f"Need at least {self.o.min_cbm_bits} bits in the mask")
        for other in self.control():
            if other is g:
                continue
            if other.mode == "exclusive" and other.schemata[r][d] & mask:
                fail(errno.EINVAL, "Overlaps with exclusive group")
            if g.mode == "exclusive" and other.schemata[r][d] & mask:
                fail(errno.EINVAL, "Overlaps with other group")
        return mask

    def bandwidth_checked(self, text):
        v = number(text)
        if v is None:
            fail(errno.EINVAL, f"Invalid MB value {text}")
        if self.o.mba_mbps:
            return v
        if not self.o.mb_min <= v <= 100:
            fail(errno.EINVAL, f"MB value {v} out of range [{self.o.mb_min},100]")
        return -(-v // self.o.mb_gran) * self.o.mb_gran

    def write_schemata(self, g, data):
        if not data.endswith("\n"):
            fail(errno.EINVAL)
        if g.mode == "pseudo-locked":
            fail(errno.EINVAL, "Resource group is pseudo-locked")
        staged = []
        for line in data[:-1].split("\n"):
            name, colon, rest = line.strip().partition(":")
            if not colon:
                fail(errno.EINVAL, "Missing ':'")
            if not rest.strip():
                fail(errno.EINVAL, f"Missing '{name}' value")
            if name not in self.resources():
                fail(errno.EINVAL, f"Unknown or unsupported resource name '{name}'")
            seen = set()
            for entry in rest.split(";"):
                d, eq, v = entry.strip().partition("=")
                if not eq or number(d.strip()) is None:
                    fail(errno.EINVAL, "Missing '=' or non-numeric domain")
                d = int(d)
                if d >= self.o.domains:
                    fail(errno.EINVAL)  # no word of it
                if d in seen:
                    fail(errno.EINVAL, f"Duplicate domain {d}")
                seen.add(d)
                v = v.strip()
                staged.append((name, d, self.bandwidth_checked(v) if name == "MB" else
                               self.mask_checked(g, name, d, v)))
        for name, d, v in staged:
            g.schemata[name][d] = v
        self.journal(op="schemata", group=self.path_of(g), text=data)

    def write_mode(self, g, data):
        if not data.endswith("\n"):
            fail(errno.EINVAL)
        mode = data.strip()
        if mode == g.mode:
            return
        if mode == "exclusive":
            if not self.o.l3:
                fail(errno.EINVAL, "Cannot be exclusive without CAT/CDP")
            for r in self.resources():
                for other in self.control() if r != "MB" else []:
                    if other is not g and any(other.schemata[r][d] & g.schemata[r][d]
                                              for d in range(self.o.domains)):
                        fail(errno.EINVAL, "Schemata overlaps")
            g.mode = mode
        elif mode == "shareable":
            g.mode = mode
        else:  # a kernel without pseudo-locking
            fail(errno.EINVAL, "Unknown or unsupported mode")

    def show_size(self, g):
        width = max(len(r) for r in self.resources()) + (0 if self.o.cdp else 4)
        out = ""
        for r in self.resources():
            out += f"{r:>{width}}:" + ";".join(
                f"{d}={v if r == 'MB' else self.o.way_bytes * bin(v).count('1')}"
                for d, v in g.schemata[r].items()) + "\n"
        return out

    def cpu_list(self, g):
        out, run = [], []
        for c in sorted(g.cpus) + [None]:
            if run and c != run[-1] + 1 if c is not None and run else run and c is None:
                out.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]))
                run = []
            if c is not None:
                run.append(c)
        return ",".join(out) + "\n"

    def cpu_mask(self, g):
        v = sum(1 << c for c in g.cpus)
        words = [(v >> (32 * i)) & 0xffffffff for i in range((self.o.cpus + 31) // 32)]
        return ",".join(f"{w:08x}" for w in reversed(words)) + "\n"

    def write_cpus(self, g, data, as_list):
        cpus = set()
        try:
            text = data.strip()
            if as_list:
                for part in text.split(",") if text else []:
                    a, _, b = part.partition("-")
                    cpus |= set(range(int(a), int(b or a) + 1))
            else:
                v = int(text.replace(",", ""), 16)
                cpus = {c for c in range(v.bit_length()) if v >> c & 1}
        except ValueError:
            fail(errno.EINVAL, "Bad CPU list/mask")
        if any(c >= self.o.cpus for c in cpus):
            fail(errno.EINVAL, "Can only assign online CPUs")
        if g is self.root:
            if self.root.cpus - cpus:
                fail(errno.EINVAL, "Can't drop CPUs from default group")
        elif g.parent is not None:
            if cpus - g.parent.cpus:
                fail(errno.EINVAL, "Can only add CPUs to mongroup that belong to parent")
        else:
            self.root.cpus |= g.cpus - cpus
        for other in self.control():
            if other is not g and g.parent is None:
                other.cpus -= cpus
        g.cpus = cpus

    # ---- the tree

    def info(self):
        """info/ as {directory: {file: text}}."""
        o, out = self.o, {}
        if o.l3:
            for r in ["L3CODE", "L3DATA"] if o.cdp else ["L3"]:
                out[r] = {
                    "num_closids": f"{o.closids // 2 if o.cdp else o.closids}\n",
                    "cbm_mask": f"{self.most('L3'):x}\n",
                    "min_cbm_bits": f"{o.min_cbm_bits}\n",
                    "shareable_bits": f"{o.shareable:x}\n",
                    "bit_usage": ";".join(f"{d}=" + self.bit_usage(r, d)
                                          for d in range(o.domains)) + "\n",
                    "sparse_masks": "0\n"}
        if o.mb:
            out["MB"] = {"num_closids": f"{o.mb_closids}\n", "min_bandwidth": f"{o.mb_min}\n",
                         "bandwidth_gran": f"{o.mb_gran}\n", "delay_linear": "1\n",
                         "thread_throttle_mode": "max\n"}
        if o.mon:
            out["L3_MON"] = {"num_rmids": f"{o.rmids}\n",
                             "mon_features": "".join(f"{x}\n" for x in o.features),
                             "max_threshold_occupancy": f"{o.threshold}\n"}
        return out

    def bit_usage(self, r, d):
        out = ""
        for b in reversed(range(self.o.cbm_len)):
            users = [g for g in self.control() if g.schemata[r][d] >> b & 1]
            hw = self.o.shareable >> b & 1
            if any(g.mode == "exclusive" for g in users):
                out += "E"
            else:
                out += "X" if hw and users else "H" if hw else "S" if users else "0"
        return out

    def mon_data(self, g):
        return {f"mon_L3_{d:02d}": {x: (g, d, x) for x in self.o.features}
                for d in range(self.o.domains)}

    def group_dir(self, g):
        d = {"cpus": ("cpus", g), "cpus_list": ("cpus_list", g), "tasks": ("tasks", g)}
        if g.parent is None:
            d |= {"schemata": ("schemata", g), "mode": ("mode", g), "size": ("size", g)}
        if self.o.mon:
            d["mon_data"] = self.mon_data(g)
            if g.parent is None:
                d["mon_groups"] = MonGroups(g, {n: self.group_dir(m) for n, m in g.mon.items()})
        return d

    def tree(self):
        d = self.group_dir(self.root)
        d["info"] = {"last_cmd_status": ("status", None), **self.info()}
        for name, g in self.groups.items():
            d[name] = self.group_dir(g)
        return d

    def find(self, path):
        """A dict (a directory), or what a file is; FileNotFoundError."""
        node = self.tree()
        for part in [x for x in path.split("/") if x]:
            if not isinstance(node, dict) or part not in node:
                fail(errno.ENOENT)
            node = node[part]
        return node

    def writable(self, path):
        return path.rpartition("/")[2] in FILES_RW

    def read(self, path):
        with self.lock:
            node = self.find(path)
            if isinstance(node, str):
                return node
            if len(node) == 3:
                return self.counter(*node)
            what, g = node
            if what == "status":
                return self.status + "\n" if self.status else "ok\n"
            self.faults("read " + what)
            return {"cpus": self.cpu_mask, "cpus_list": self.cpu_list,
                    "mode": lambda x: x.mode + "\n", "schemata": self.show_schemata,
                    "size": self.show_size,
                    "tasks": lambda x: "".join(f"{t}\n" for t in self.tasks_of(x))}[what](g)

    def counter(self, g, d, what):
        said = self.rule("counters", {}).get(what)
        if said is not None:
            return said + "\n"
        self.advance()
        groups = [g] + (list(g.mon.values()) if g.parent is None else [])
        if what == "llc_occupancy":
            v = sum(x.occ[d] for x in groups)
        else:
            v = sum(x.mbm[d] for x in groups)
        return f"{int(v)}\n"

    def changing(self, call, path, do):
        """A call that sets last_cmd_status."""
        with self.lock:
            self.status = ""
            try:
                self.faults(call)
                do()
            except OSError as e:
                self.status = getattr(e, "words", "")
                self.journal(op=call, path=path, error=errno.errorcode[e.errno], words=self.status)
                raise
            self.journal(op=call, path=path)

    def write(self, path, data, caller):
        def do():
            node = self.find(path)
            if not isinstance(node, tuple) or node[0] not in FILES_RW:
                fail(errno.EACCES)
            what, g = node
            if what == "tasks":
                self.write_tasks(g, data, caller)
            elif what == "schemata":
                self.write_schemata(g, data)
            elif what == "mode":
                self.write_mode(g, data)
            else:
                self.write_cpus(g, data, what == "cpus_list")
        self.changing("write " + path.rpartition("/")[2], path, do)

    def mkdir(self, path):
        def do():
            parent, _, name = path.rpartition("/")
            where = self.find(parent)
            if name in where:
                fail(errno.EEXIST)
            if parent == "":
                self.make_control(name)
            elif isinstance(where, MonGroups):
                self.make_mon(where.group, name)
            else:
                fail(errno.EPERM)
        self.changing("mkdir", path, do)

    def group_at(self, path):
        """The group whose directory this is, or None."""
        for g in self.every():
            if g is not self.root and self.path_of(g) == path:
                return g
        return None

    def rmdir(self, path):
        def do():
            self.find(path)
            g = self.group_at(path)
            if g is None:
                fail(errno.EPERM)
            self.advance()
            self.remove(g)
        self.changing("rmdir", path, do)

    def rename(self, old, new):
        def do():
            g = self.group_at(old)
            parent, _, name = new.rpartition("/")
            where = self.find(parent)
            if g is None or g.parent is None:
                fail(errno.EPERM, "Source must be a MON group")
            if not isinstance(where, MonGroups):
                fail(errno.EPERM, "Destination must be a mon_groups subdirectory")
            if g.cpus:
                fail(errno.EPERM, "Cannot move a MON group that monitors CPUs")
            if name in where:
                fail(errno.EEXIST)
            del g.parent.mon[g.name]
            g.parent, g.name, g.closid = where.group, name, where.group.closid
            where.group.mon[name] = g
        self.changing("rename", old, do)


class MonGroups(dict):
    """The directory mon_groups of a group."""

    def __init__(self, group, entries):
        super().__init__(entries)
        self.group = group
