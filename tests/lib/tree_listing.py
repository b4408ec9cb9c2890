#!/usr/bin/env python3
"""Prints what is under ROOT/t, a line for each path: kind, mode, owner, size or target, time, links
and a hash. Ids from FIRST_ID on count from there.

    tree_listing.py ROOT [FIRST_ID]
"""
import hashlib
import os
import stat
import sys


def listing(root, first=0):
    lines = []
    for top, dirs, files in os.walk(os.path.join(root, "t")):
        links = [d for d in dirs if os.path.islink(os.path.join(top, d))]
        for p in [top] + [os.path.join(top, x) for x in files + links]:
            st = os.lstat(p)
            ids = " ".join(str(x - first if x >= first else x) for x in (st.st_uid, st.st_gid))
            mode, mtime = f"{stat.S_IMODE(st.st_mode):o}", int(st.st_mtime)
            name = os.path.relpath(p, root)
            if stat.S_ISLNK(st.st_mode):
                lines.append(f"{name} link {os.readlink(p)} {ids}")
            elif stat.S_ISDIR(st.st_mode):
                lines.append(f"{name} dir {mode} {ids} {mtime}")
            elif not stat.S_ISREG(st.st_mode):
                lines.append(f"{name} other {stat.filemode(st.st_mode)} {ids} {mtime}")
            else:
                with open(p, "rb") as f:
                    data = hashlib.sha256(f.read()).hexdigest()[:16]
                lines.append(f"{name} file {mode} {ids} {st.st_size} {mtime} {st.st_nlink} {data}")
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(listing(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
