/*
 * gen-zoneinfo DIRECTORY OUTPUT - packs a zoneinfo directory into one compressed file, which the
 * build embeds: the time zones of hosts that have none (agent/triggers/sys_zone.c reads it).
 *
 * Format, before zstd: the version's line; then for each zone "NAME SIZE\n" and SIZE bytes. A link
 * is packed as its target; zstd sees to it that the same bytes cost nothing. posix/ and right/ are
 * other copies of the same and are left out.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zstd.h>

enum { NAMES_MAX = 2000, TOTAL_MAX = 4 * 1024 * 1024 };

static char *names[NAMES_MAX];
static size_t names_len;
static char out[TOTAL_MAX];
static size_t out_len;

static void die(const char *what, const char *name)
{
    fprintf(stderr, "gen-zoneinfo: %s: %s\n", name, what);
    exit(1);
}

static char *join(const char *a, const char *b)
{
    char *r = NULL;
    if (asprintf(&r, "%s%s%s", a, a[0] != '\0' ? "/" : "", b) < 0) {
        die("no memory", b);
    }
    return r;
}

static void add(const void *p, size_t n)
{
    if (n > sizeof out - out_len) {
        die("too much", "zoneinfo");
    }
    memcpy(out + out_len, p, n);
    out_len += n;
}

static void walk(const char *top, const char *below)
{
    char *path = join(top, below);
    DIR *d = opendir(path);
    struct dirent *e;

    if (d == NULL) {
        die("cannot be read (Debian: tzdata)", path);
    }
    while ((e = readdir(d)) != NULL) {
        struct stat st;
        char *name = join(below, e->d_name);
        char *full = join(top, name);
        if (e->d_name[0] == '.' || strcmp(name, "posix") == 0 || strcmp(name, "right") == 0 ||
            stat(full, &st) != 0) {
            continue;
        }
        if (S_ISDIR(st.st_mode)) {
            walk(top, name);
        } else if (names_len < NAMES_MAX) {
            names[names_len++] = name;
        } else {
            die("too many zones", top);
        }
        free(full);
    }
    closedir(d);
    free(path);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t read_file(const char *top, const char *name, char *dst, size_t cap)
{
    char *path = join(top, name);
    FILE *f = fopen(path, "rb");
    size_t n = f != NULL ? fread(dst, 1, cap, f) : 0;

    if (f != NULL) {
        fclose(f);
    }
    free(path);
    return n;
}

int main(int argc, char **argv)
{
    static char bytes[64 * 1024];
    char line[300] = "unknown\n";

    if (argc != 3) {
        fprintf(stderr, "usage: gen-zoneinfo DIRECTORY OUTPUT\n");
        return 2;
    }
    walk(argv[1], "");
    qsort(names, names_len, sizeof names[0], by_name);
    size_t n = read_file(argv[1], "tzdata.zi", bytes, sizeof bytes - 1);
    bytes[n] = '\0';
    if (strncmp(bytes, "# version ", 10) == 0) {
        (void)snprintf(line, sizeof line, "%.*s\n", (int)strcspn(bytes + 10, "\n"), bytes + 10);
    }
    add(line, strlen(line));
    size_t zones = 0;
    for (size_t i = 0; i < names_len; i++) {
        n = read_file(argv[1], names[i], bytes, sizeof bytes);
        if (n < 44 || memcmp(bytes, "TZif", 4) != 0 || strcmp(names[i], "localtime") == 0) {
            continue;
        }
        (void)snprintf(line, sizeof line, "%s %zu\n", names[i], n);
        add(line, strlen(line));
        add(bytes, n);
        zones++;
    }
    if (zones < 300) {
        die("has hardly any zones (Debian: tzdata)", argv[1]);
    }
    size_t cap = ZSTD_compressBound(out_len);
    char *packed = malloc(cap);
    size_t packed_len = packed != NULL ? ZSTD_compress(packed, cap, out, out_len, 19) : 0;
    FILE *f = fopen(argv[2], "wb");
    if (packed_len == 0 || ZSTD_isError(packed_len) || f == NULL ||
        fwrite(packed, 1, packed_len, f) != packed_len || fclose(f) != 0) {
        die("cannot be written", argv[2]);
    }
    free(packed);
    return 0;
}
