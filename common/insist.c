#include "common/insist.h"

#include <stdio.h>
#include <stdlib.h>

void insist_failed(const char *kind, const char *text, const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s(%s) failed\n", file, line, kind, text);
    abort();
}
