/* The facts of an image, from the indexes of its layers: a small file system of what matters. */
#include "agent/image/programs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/path.h"
#include "agent/image/programs_internal.h"
#include "common/map.h"
#include "common/mem.h"

enum {
    LINKS_MAX = 40,
    CLOSURE_MAX = 512, /* files that one program is linked with */
    SEARCH_DIRS_MAX = 32,
    LOOKUPS_MAX = 2000000, /* in all: a hostile image costs a second, no more */
    FIRST = 1024,
};

/* One path; what the highest layer has there, and what it hides of lower ones. */
struct place {
    struct image_index_entry entry; /* entry.kind 0: nothing but what is hidden */
    struct str path;
    int layer;     /* of entry; -1 */
    int whiteout;  /* the highest layer that took the path away; -1 */
    int opaque;    /* the highest layer that emptied the directory; -1 */
    uint32_t seen; /* the closure that it is in */
};

struct finder {
    struct place *places;
    size_t len, cap;
    struct map by_path; /* made when all places are there: they move while they are added */
    uint32_t closure;
    unsigned lookups;
    const struct image_config *config;
};

/* ---- the places ---- */

static int places_room(struct finder *f)
{
    if (f->len < f->cap) {
        return 0;
    }
    if (f->len >= IMAGE_INDEX_ENTRIES_MAX) {
        return -E2BIG;
    }
    size_t cap = f->cap == 0 ? FIRST : 2 * f->cap;
    struct place *more = mem_realloc(f->places, cap * sizeof(*more));
    if (more == NULL) {
        return -ENOMEM;
    }
    f->places = more;
    f->cap = cap;
    return 0;
}

static int layer_read(struct finder *f, struct str index, int layer)
{
    struct image_index_reader r;
    struct image_index_entry entry;
    int rc = image_index_open(&r, index);

    if (rc != 0) {
        return rc;
    }
    while ((rc = image_index_next(&r, &entry)) == 1) {
        if ((rc = places_room(f)) != 0) {
            return rc;
        }
        f->places[f->len++] = (struct place){
            .entry = entry, .path = entry.path, .layer = layer, .whiteout = -1, .opaque = -1
        };
    }
    return rc;
}

/* Entries of one path become one place: the first of them, which keeps the order. */
static int places_join(struct finder *f)
{
    for (size_t i = 0; i < f->len; i++) {
        struct place *p = &f->places[i];
        struct place now = *p;
        struct place *first = map_get(&f->by_path, p->path);
        if (first == NULL) {
            *p = (struct place){ .path = p->path, .layer = -1, .whiteout = -1, .opaque = -1 };
            int rc = map_add(&f->by_path, p->path, p);
            if (rc != 0) {
                return rc;
            }
            first = p;
        } else {
            *p = (struct place){ .layer = -1 }; /* it is in the first one */
        }
        if (now.entry.kind == IMAGE_INDEX_WHITEOUT) {
            first->whiteout = now.layer;
        } else if (now.entry.kind == IMAGE_INDEX_OPAQUE) {
            first->opaque = now.layer;
        } else {
            first->entry = now.entry;
            first->layer = now.layer;
        }
    }
    return 0;
}

/* What is there, as the layers lie over each other. */
static struct place *place_at(struct finder *f, struct str path)
{
    struct place *p;

    if (++f->lookups > LOOKUPS_MAX || (p = map_get(&f->by_path, path)) == NULL ||
        p->entry.kind == 0 || p->whiteout > p->layer) {
        return NULL;
    }
    for (struct str up = path; up.n != 0;) {
        ptrdiff_t slash = str_rfind(up, '/');
        up = str_slice(up, 0, slash < 0 ? 0 : (size_t)slash);
        const struct place *dir = map_get(&f->by_path, up);
        if (dir != NULL && (dir->whiteout > p->layer || dir->opaque > p->layer)) {
            return NULL;
        }
    }
    return p;
}

/* ---- looking up ---- */

/* One link on the way: rest is what comes behind it. False: too long. */
static bool link_follow(const struct place *link, struct str dir, struct str rest,
                        char next[IMAGE_PATH_MAX])
{
    struct str target = link->entry.target;
    bool absolute = str_starts(target, "/") || link->entry.kind == IMAGE_INDEX_HARD_LINK;
    AUTO_BUF struct buf b = BUF_INIT(2 * IMAGE_PATH_MAX);

    (void)buf_addf(&b, "%.*s/%.*s/%.*s", STR_ARG(absolute ? STR("") : dir), STR_ARG(target),
                   STR_ARG(rest));
    return buf_error(&b) == 0 && image_path_clean(buf_str(&b), IMAGE_PATH_CLAMP, next, NULL) == 0;
}

/* The file at that path, through all links; NULL: none that is known. */
static struct place *look_up(struct finder *f, struct str path)
{
    char now[IMAGE_PATH_MAX];
    unsigned links = 0;

    if (image_path_clean(path, IMAGE_PATH_CLAMP, now, NULL) != 0) {
        return NULL;
    }
    for (size_t at = 0; links <= LINKS_MAX;) {
        struct str all = str_of(now);
        ptrdiff_t slash = str_find(str_slice(all, at, all.n), '/');
        size_t end = slash < 0 ? all.n : at + (size_t)slash;
        struct place *p = place_at(f, str_slice(all, 0, end));
        bool link = p != NULL &&
                    (p->entry.kind == IMAGE_INDEX_LINK || p->entry.kind == IMAGE_INDEX_HARD_LINK);
        if (link) {
            char next[IMAGE_PATH_MAX];
            struct str dir = str_slice(all, 0, at == 0 ? 0 : at - 1);
            struct str rest = str_slice(all, end < all.n ? end + 1 : end, all.n);
            if (!link_follow(p, dir, rest, next)) {
                return NULL;
            }
            memcpy(now, next, sizeof(now));
            links++;
            at = 0;
        } else if (end == all.n) {
            return p;
        } else {
            at = end + 1;
        }
    }
    return NULL;
}

static struct place *look_in(struct finder *f, struct str dir, struct str name)
{
    char path[IMAGE_PATH_MAX];
    int n = snprintf(path, sizeof(path), "%.*s/%.*s", STR_ARG(dir), STR_ARG(name));

    return n > 0 && (size_t)n < sizeof(path) ? look_up(f, str_of(path)) : NULL;
}

/* The value of a variable of the image. */
static struct str variable(const struct finder *f, const char *name, struct str otherwise)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < f->config->env.n; i++) {
        const char *v = f->config->env.v[i];
        if (strncmp(v, name, n) == 0 && v[n] == '=') {
            return str_of(v + n + 1);
        }
    }
    return otherwise;
}

/* As exec finds it. */
static struct place *program_find(struct finder *f, struct str name)
{
    struct str path =
        variable(f, "PATH", STR("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    struct str dir;

    if (name.n == 0) {
        return NULL;
    }
    if (str_find(name, '/') >= 0) {
        return str_starts(name, "/") ? look_up(f, name)
                                     : look_in(f, str_of(f->config->workdir), name);
    }
    for (size_t i = 0; i < SEARCH_DIRS_MAX && str_split(&path, ':', &dir); i++) {
        struct place *p = look_in(f, dir, name);
        if (p != NULL) {
            return p;
        }
    }
    return NULL;
}

/* ---- what a program is linked with ---- */

struct closure {
    struct place *files[CLOSURE_MAX];
    size_t len;
    uint8_t level;
};

static void closure_add(struct finder *f, struct closure *c, struct place *p)
{
    if (p == NULL || p->entry.kind != IMAGE_INDEX_ELF || p->seen == f->closure ||
        c->len == CLOSURE_MAX) {
        return;
    }
    p->seen = f->closure;
    c->files[c->len++] = p;
    c->level = p->entry.level > c->level ? p->entry.level : c->level;
}

/* "$ORIGIN/../lib" of a file in `dir`. */
static void origin_expand(struct str entry, struct str dir, struct buf *out)
{
    static const char *const names[] = { "$ORIGIN", "${ORIGIN}" };

    for (size_t i = 0; i < 2; i++) {
        if (str_starts(entry, names[i])) {
            (void)buf_addf(out, "/%.*s", STR_ARG(dir));
            entry = str_slice(entry, strlen(names[i]), entry.n);
            break;
        }
    }
    (void)buf_addstr(out, entry);
}

static struct place *same_machine(const struct place *of, struct place *p)
{
    return p != NULL && p->entry.kind == IMAGE_INDEX_ELF && p->entry.machine == of->entry.machine
               ? p
               : NULL;
}

static struct place *search_list(struct finder *f, const struct place *of, struct str list,
                                 struct str name)
{
    ptrdiff_t slash = str_rfind(of->path, '/');
    struct str own_dir = str_slice(of->path, 0, slash < 0 ? 0 : (size_t)slash);
    struct str dir;

    for (size_t i = 0; i < SEARCH_DIRS_MAX && str_split(&list, ':', &dir); i++) {
        AUTO_BUF struct buf expanded = BUF_INIT(IMAGE_PATH_MAX);
        origin_expand(dir, own_dir, &expanded);
        struct place *p = buf_error(&expanded) == 0
                              ? same_machine(of, look_in(f, buf_str(&expanded), name))
                              : NULL;
        if (p != NULL) {
            return p;
        }
    }
    return NULL;
}

/* As the dynamic linker finds it, but for its cache: the usual directories of the distributions. */
static struct place *library_find(struct finder *f, const struct place *of, struct str name)
{
    static const char usual[] =
        "/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/lib/aarch64-linux-gnu:"
        "/usr/lib/aarch64-linux-gnu:/lib/i386-linux-gnu:/usr/lib/i386-linux-gnu:/lib64:"
        "/usr/lib64:/lib:/usr/lib:/usr/local/lib/x86_64-linux-gnu:/usr/local/lib64:/usr/local/lib";

    if (str_find(name, '/') >= 0) {
        return same_machine(of, look_up(f, name));
    }
    struct place *p = search_list(f, of, of->entry.runpath, name);
    if (p == NULL) {
        p = search_list(f, of, variable(f, "LD_LIBRARY_PATH", STR("")), name);
    }
    return p != NULL ? p : search_list(f, of, str_of(usual), name);
}

/* Everything that is in the process when it starts. A script's is its interpreter's. */
static uint8_t closure_level(struct finder *f, struct place *program)
{
    struct closure c;

    c.len = 0;
    c.level = 0;
    f->closure++;
    if (program->entry.kind == IMAGE_INDEX_SCRIPT) {
        program = look_up(f, program->entry.target);
    }
    closure_add(f, &c, program);
    for (size_t i = 0; i < c.len; i++) {
        const struct place *p = c.files[i];
        struct str rest = p->entry.needed;
        struct str name;
        if (p->entry.interpreter.n != 0) {
            closure_add(f, &c, look_up(f, p->entry.interpreter));
        }
        while (rest.n != 0 && image_index_needed(&rest, &name)) {
            closure_add(f, &c, library_find(f, p, name));
        }
    }
    return c.level;
}

/* ---- facts ---- */

static void others_find(struct finder *f, const struct place *own, struct image_programs *ret)
{
    for (size_t i = 0; i < f->len && ret->programs_len < IMAGE_PROGRAMS_MAX; i++) {
        struct place *p = &f->places[i];
        bool starts = p->entry.kind == IMAGE_INDEX_SCRIPT || p->entry.kind == IMAGE_INDEX_LINK ||
                      p->entry.kind == IMAGE_INDEX_HARD_LINK ||
                      (p->entry.kind == IMAGE_INDEX_ELF && p->entry.program);
        struct place *program = starts ? look_up(f, p->path) : NULL;
        if (program == NULL || program == own ||
            (program->entry.kind == IMAGE_INDEX_ELF && !program->entry.program)) {
            continue;
        }
        uint8_t isa = closure_level(f, program);
        struct image_program *to = &ret->programs[ret->programs_len];
        if (isa > 1 && str_copy(to->path, sizeof(to->path), p->path) == 0) {
            to->isa = isa;
            ret->programs_len++;
        }
    }
}

static void facts_find(struct finder *f, struct image_programs *ret)
{
    const struct image_config *config = f->config;
    const struct image_strv *argv = config->entrypoint.n != 0 ? &config->entrypoint : &config->cmd;
    struct place *own = argv->n != 0 ? program_find(f, str_of(argv->v[0])) : NULL;
    const struct place *runs = own;
    bool any = false;

    ret->known = true;
    ret->entrypoint = config->entrypoint.n != 0;
    ret->script = own != NULL && own->entry.kind == IMAGE_INDEX_SCRIPT;
    if (own != NULL) {
        ret->isa = closure_level(f, own);
        runs = ret->script ? look_up(f, own->entry.target) : own;
    }
    for (size_t i = 0; i < f->len; i++) {
        if (f->places[i].entry.kind == IMAGE_INDEX_ELF &&
            place_at(f, f->places[i].path) == &f->places[i]) {
            ret->files += 1;
            any = any || f->places[i].entry.level > 1;
            image_elf_counts_add(&ret->counts, &f->places[i].entry.counts);
        }
    }
    if (runs != NULL && runs->entry.kind == IMAGE_INDEX_ELF) {
        (void)snprintf(ret->arch, sizeof(ret->arch), "%s", image_elf_arch(runs->entry.machine));
    }
    ret->features = ret->script || strcmp(ret->arch, "amd64") != 0
                        ? IMAGE_FEATURES_ALL
                        : (uint8_t)image_elf_features(&ret->counts);
    if (any) {
        others_find(f, own, ret);
    }
}

int image_programs_find(const struct str *indexes, size_t n, const struct image_config *config,
                        uint64_t k0, uint64_t k1, struct image_programs *ret)
{
    struct finder f = { .config = config };
    struct image_programs facts = { .features = IMAGE_FEATURES_ALL };
    int rc = 0;

    map_init(&f.by_path, IMAGE_INDEX_ENTRIES_MAX, k0, k1);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = layer_read(&f, indexes[i], (int)i);
    }
    if (rc == 0 && (rc = places_join(&f)) == 0) {
        facts.features = 0;
        facts_find(&f, &facts);
    }
    if (f.lookups > LOOKUPS_MAX) {
        facts = (struct image_programs){ .features = IMAGE_FEATURES_ALL };
    }
    map_release(&f.by_path);
    mem_free(f.places);
    if (rc == -ENOMEM) {
        return rc;
    }
    *ret = facts;
    return 0;
}

static struct str last_part(struct str path)
{
    ptrdiff_t slash = str_rfind(path, '/');

    return str_slice(path, slash < 0 ? 0 : (size_t)slash + 1, path.n);
}

uint8_t image_programs_isa(const struct image_programs *p, struct str program)
{
    uint8_t isa = 0;

    if (!p->known || program.n == 0) {
        return p->known ? p->isa : 0;
    }
    for (size_t i = 0; i < p->programs_len; i++) {
        if (str_eq(last_part(str_of(p->programs[i].path)), last_part(program)) &&
            (isa == 0 || p->programs[i].isa < isa)) {
            isa = p->programs[i].isa; /* of two with one name the easier: never wrongly refused */
        }
    }
    return isa;
}
