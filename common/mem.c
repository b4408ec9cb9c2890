#include "common/mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Faults for tests. Never written while `armed` is false, so threads may allocate freely then. */
static struct {
    bool armed;
    bool forever;
    long left;
    long count;
} mem_fault;

void mem_fail_after(long after, int forever)
{
    mem_fault.armed = after >= 0;
    mem_fault.forever = forever != 0;
    mem_fault.left = after;
    mem_fault.count = 0;
}

long mem_fail_count(void)
{
    return mem_fault.count;
}

static bool mem_refused(void)
{
    if (!mem_fault.armed) {
        return false;
    }
    mem_fault.count++;
    if (mem_fault.left > 0) {
        mem_fault.left--;
        return false;
    }
    mem_fault.armed = mem_fault.forever;
    return true;
}

void *mem_alloc(size_t n)
{
    return mem_refused() ? NULL : malloc(n != 0 ? n : 1);
}

void *mem_zalloc(size_t n)
{
    return mem_calloc(1, n);
}

void *mem_calloc(size_t n, size_t size)
{
    if (n == 0 || size == 0) {
        n = 1;
        size = 1;
    }
    return mem_refused() ? NULL : calloc(n, size);
}

void *mem_realloc(void *p, size_t n)
{
    return mem_refused() ? NULL : realloc(p, n != 0 ? n : 1);
}

void *mem_dup(const void *p, size_t n)
{
    void *copy = mem_alloc(n);
    if (copy != NULL && n != 0) {
        memcpy(copy, p, n);
    }
    return copy;
}

char *mem_strndup(const char *s, size_t n)
{
    if (n == SIZE_MAX) {
        return NULL;
    }
    char *copy = mem_alloc(n + 1);
    if (copy != NULL) {
        if (n != 0) {
            memcpy(copy, s, n);
        }
        copy[n] = '\0';
    }
    return copy;
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

void *mem_free(void *p)
{
    free(p);
    return NULL;
}
