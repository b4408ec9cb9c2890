/*
 * Users of an image: "", "name", "uid", "user:group" and mixes, against the image's own /etc/passwd
 * and /etc/group. Bytes of an image: bounded by the caller (SANDBOX_PASSWD_MAX) and by lines here.
 */
#include <errno.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"

enum { ID_MAX = 65535 };

static bool as_id(struct str s, uint32_t *ret)
{
    uint64_t v;
    if (str_u64_in(s, 0, ID_MAX, &v) < 0) {
        return false;
    }
    *ret = (uint32_t)v;
    return true;
}

/* The next line of a colon-separated file, its fields into f[n]; lines with fewer are passed over.
 * False at the end, or after too many lines. */
static bool next_entry(struct str *text, size_t *lines, struct str *f, size_t n)
{
    struct str line;
    while ((*lines)++ < SANDBOX_PASSWD_LINES && str_split(text, '\n', &line)) {
        size_t got = 0;
        struct str field;
        while (got < n && str_split(&line, ':', &field)) {
            f[got++] = field;
        }
        /* A last, empty field is not a piece of its own for str_split(). */
        if (got == n - 1) {
            f[got++] = STR("");
        }
        if (got == n) {
            return true;
        }
    }
    return false;
}

/* By name, or by number when `uid` is not NULL. */
static bool passwd_find(struct str text, struct str name, const uint32_t *uid,
                        struct sandbox_user *ret)
{
    struct str f[6];
    size_t lines = 0;
    while (next_entry(&text, &lines, f, 6)) {
        uint32_t id;
        uint32_t gid;
        if (!as_id(f[2], &id) || !as_id(f[3], &gid)) {
            continue;
        }
        if (uid != NULL ? id == *uid : (name.n > 0 && str_eq(f[0], name))) {
            ret->uid = id;
            ret->gid = gid;
            if (f[5].n == 0 || f[5].p[0] != '/' ||
                str_copy(ret->home, sizeof(ret->home), f[5]) < 0) {
                memcpy(ret->home, "/", 2);
            }
            return true;
        }
    }
    return false;
}

static bool group_find(struct str text, struct str name, uint32_t *ret)
{
    struct str f[3];
    size_t lines = 0;
    while (next_entry(&text, &lines, f, 3)) {
        if (name.n > 0 && str_eq(f[0], name) && as_id(f[2], ret)) {
            return true;
        }
    }
    return false;
}

static void add_group(struct sandbox_user *u, uint32_t gid)
{
    for (size_t i = 0; i < u->groups_len; i++) {
        if (u->groups[i] == gid) {
            return;
        }
    }
    if (u->groups_len < SANDBOX_GROUPS_MAX) {
        u->groups[u->groups_len++] = gid;
    }
}

/* The groups that list the user's name as a member. */
static void add_memberships(struct sandbox_user *u, struct str text, struct str name)
{
    struct str f[4];
    size_t lines = 0;
    while (next_entry(&text, &lines, f, 4)) {
        struct str member;
        struct str members = f[3];
        uint32_t gid;
        while (str_split(&members, ',', &member)) {
            if (str_eq(str_trim(member), name) && as_id(f[2], &gid)) {
                add_group(u, gid);
                break;
            }
        }
    }
}

int sandbox_user_find(const char *user, struct str passwd, struct str group,
                      struct sandbox_user *ret, struct err *e)
{
    struct str whole = str_of(user);
    ptrdiff_t colon = str_find(whole, ':');
    struct str name = colon < 0 ? whole : str_slice(whole, 0, (size_t)colon);
    struct str gname = colon < 0 ? STR("") : str_slice(whole, (size_t)colon + 1, whole.n);
    struct sandbox_user u = { .home = "/" };
    uint32_t id = 0;
    if (name.n == 0 || as_id(name, &id)) {
        u.uid = id;
        if (!passwd_find(passwd, name, &id, &u)) {
            u.gid = 0;
            if (id == 0) {
                memcpy(u.home, "/root", 6);
            }
        }
    } else if (!passwd_find(passwd, name, NULL, &u)) {
        return err_say(e, -ENOENT,
                       "unable to find user '%.*s' in the image's /etc/passwd (ids go to %d)",
                       STR_ARG(str_slice(name, 0, 64)), ID_MAX);
    } else if (gname.n == 0) {
        add_group(&u, u.gid);
        add_memberships(&u, group, name);
    }
    if (gname.n > 0 && !as_id(gname, &u.gid) && !group_find(group, gname, &u.gid)) {
        return err_say(e, -ENOENT,
                       "unable to find group '%.*s' in the image's /etc/group (ids go to %d)",
                       STR_ARG(str_slice(gname, 0, 64)), ID_MAX);
    }
    *ret = u;
    return 0;
}
