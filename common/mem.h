/*
 * mem - heap memory, with a switch that makes the Nth request fail.
 *
 * All of the project's heap goes through here, so that one fault loop proves every unwind. Out of
 * memory is NULL (callers return -ENOMEM), never an abort.
 */
#ifndef COMMON_MEM_H
#define COMMON_MEM_H

#include <stddef.h>

void *mem_alloc(size_t n) __attribute__((malloc, alloc_size(1), warn_unused_result));
void *mem_zalloc(size_t n) __attribute__((malloc, alloc_size(1), warn_unused_result));
/* n elements of size bytes, zeroed; NULL also when n * size overflows. */
void *mem_calloc(size_t n, size_t size)
    __attribute__((malloc, alloc_size(1, 2), warn_unused_result));
/* As realloc(): p stays valid on failure. n == 0 is treated as 1. */
void *mem_realloc(void *p, size_t n) __attribute__((alloc_size(2), warn_unused_result));
void *mem_dup(const void *p, size_t n) __attribute__((malloc, warn_unused_result));
/* n bytes of s and a NUL. */
char *mem_strndup(const char *s, size_t n) __attribute__((malloc, warn_unused_result));
char *mem_strdup(const char *s) __attribute__((malloc, warn_unused_result));
/* free(NULL) is fine. Returns NULL, so `p = mem_free(p)` forgets the pointer. */
void *mem_free(void *p);

/* Tests only: the request after the next `after` successful ones fails, and all that follow when
 * `forever` is true. after < 0 switches faults off. Not thread-safe. */
void mem_fail_after(long after, int forever);
/* Requests made since the last mem_fail_after(). */
long mem_fail_count(void);

static inline void mem_cleanup(void *pp)
{
    void **p = (void **)pp;
    *p = mem_free(*p);
}
/* char AUTO_MEM *s = mem_strdup(...): freed at the end of the scope. */
#define AUTO_MEM __attribute__((cleanup(mem_cleanup)))
/* Hands a pointer out of an AUTO_ variable. */
#define TAKE(p) \
    __extension__({ \
        __typeof__(p) take_tmp_ = (p); \
        (p) = NULL; \
        take_tmp_; \
    })

#endif
