#include "agent/routing/real.h"

#include <errno.h>
#include <math.h>

#include "common/insist.h"

/* ln 2 in two parts: k * LN2_HI is exact for |k| < 2^20. */
static const double ln2_hi = 6.93147180369123816490e-01;
static const double ln2_lo = 1.90821492927058770002e-10;

double route_ln(double x)
{
    static const double odd[] = { 1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                  1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3 };
    int e;

    if (!(x > 0) || !isfinite(x)) {
        return -745;
    }
    double m = frexp(x, &e);
    if (m < 0.70710678118654752440) {
        m *= 2;
        e--;
    }
    /* ln m = 2 atanh(s): |s| <= 0.1716, so 11 terms leave less than 1e-17. */
    double s = (m - 1) / (m + 1);
    double s2 = s * s;
    double sum = 0;
    for (size_t k = 0; k < ARRAY_LEN(odd); k++) {
        sum = (sum + odd[k]) * s2;
    }
    return (double)e * ln2_hi + (2 * s + (2 * s * sum + (double)e * ln2_lo));
}

double route_exp(double x)
{
    /* 1 / 13! … 1 / 0! */
    static const double factorial[] = { 1.0 / 6227020800.0,
                                        1.0 / 479001600.0,
                                        1.0 / 39916800.0,
                                        1.0 / 3628800.0,
                                        1.0 / 362880.0,
                                        1.0 / 40320.0,
                                        1.0 / 5040.0,
                                        1.0 / 720.0,
                                        1.0 / 120.0,
                                        1.0 / 24.0,
                                        1.0 / 6.0,
                                        1.0 / 2.0,
                                        1.0,
                                        1.0 };

    if (isnan(x)) {
        return 1;
    }
    if (x > 700) {
        x = 700;
    }
    if (x < -700) {
        x = -700;
    }
    double k = floor(x / 6.93147180559945286227e-01 + 0.5);
    double r = (x - k * ln2_hi) - k * ln2_lo;
    /* |r| <= 0.3466: 14 terms of the power series leave less than 1e-17. */
    double sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(factorial); i++) {
        sum = sum * r + factorial[i];
    }
    return ldexp(sum, (int)k);
}

double route_normal(struct rng *r)
{
    double u;
    double s;

    do {
        u = 2 * rng_unit(r) - 1;
        double v = 2 * rng_unit(r) - 1;
        s = u * u + v * v;
    } while (s >= 1 || s <= 0);
    return u * sqrt(-2 * route_ln(s) / s);
}

int route_cholesky(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double *row = &a[ROUTE_PACKED(i)];
        for (size_t j = 0; j <= i; j++) {
            const double *other = &a[ROUTE_PACKED(j)];
            double sum = row[j];
            for (size_t k = 0; k < j; k++) {
                sum -= row[k] * other[k];
            }
            if (j < i) {
                row[j] = sum / other[j];
            } else if (sum > 0 && isfinite(sum)) {
                row[j] = sqrt(sum);
            } else {
                return -EDOM;
            }
        }
    }
    return 0;
}

void route_solve_lower(const double *l, size_t n, double *b)
{
    for (size_t i = 0; i < n; i++) {
        const double *row = &l[ROUTE_PACKED(i)];
        double sum = b[i];
        for (size_t k = 0; k < i; k++) {
            sum -= row[k] * b[k];
        }
        b[i] = sum / row[i];
    }
}

void route_solve_upper(const double *l, size_t n, double *b)
{
    for (size_t i = n; i-- > 0;) {
        double sum = b[i];
        for (size_t k = i + 1; k < n; k++) {
            sum -= l[ROUTE_PACKED(k) + i] * b[k];
        }
        b[i] = sum / l[ROUTE_PACKED(i) + i];
    }
}
