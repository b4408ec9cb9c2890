#include "common/sys/sys_random.h"

#include <errno.h>
#include <sys/random.h>

#include "common/insist.h"

void sys_random(void *p, size_t n)
{
    unsigned char *at = p;
    while (n != 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0) {
            INSIST(errno == EINTR);
            continue;
        }
        at += got;
        n -= (size_t)got;
    }
}

uint64_t sys_random_u64(void)
{
    uint64_t v;
    sys_random(&v, sizeof v);
    return v;
}
