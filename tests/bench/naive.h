/*
 * naive - how a sandbox is started when nobody thought about speed: every step of
 * tests/bench/README.md's "naive" row, one after the other, nothing prepared. The yardstick beside
 * ours.
 */
#ifndef TESTS_BENCH_NAIVE_H
#define TESTS_BENCH_NAIVE_H

#include "common/err.h"

struct naive {
    char work[256];   /* a directory of the bench's own, on a disk file system */
    char lower[256];  /* the image's root directory; owned by id_base */
    unsigned id_base; /* 65,536 ids from here on */
    const char *path; /* the program inside */
    unsigned serial;
};

/* Start to exit seen: 0, the child's exit status, or -Exxx. */
int naive_run(struct naive *n, struct err *e);

#endif
