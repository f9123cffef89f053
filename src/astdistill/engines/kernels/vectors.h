/* Sixteen channels at once, in the vector extensions that gcc and clang share. */

#include <stdlib.h>
#include <string.h>

#define L 16

typedef float v __attribute__((vector_size(64), aligned(4), may_alias));
typedef int vi __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE v splat(float number) { return number - (v){}; }
INLINE v load(const float *from) { return *(const v *)from; }
INLINE void store(float *to, v value) { *(v *)to = value; }
INLINE v where(vi mask, v value) { return (v)((vi)value & mask); }
INLINE vi positive(v value) { return ~(vi)(value <= 0); } /* what is not a number passes, as in torch */

/* Memory for so many numbers, on a vector's boundary. */
static float *room(long numbers) { return aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64); }

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

#define LOW8(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HIGH8(a, b) SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define LOW4(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#define HIGH4(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)
#define LOW2(a, b) SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH2(a, b) SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOW1(a, b) SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
#define HIGH1(a, b) SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31)
#define SWAP(k)                                  \
    for (int i = 0; i < L; i++)                  \
        if (!(i & k)) {                          \
            v low = LOW##k(to[i], to[i + k]);    \
            to[i + k] = HIGH##k(to[i], to[i + k]); \
            to[i] = low;                         \
        }

/* 16 pixels of 16 channels, as 16 channels of 16 pixels: off-diagonal blocks of 8, 4, 2 and 1 change places. */
INLINE void transpose(const float *from, v to[L]) {
    for (int p = 0; p < L; p++) to[p] = load(from + p * L);
    SWAP(8)
    SWAP(4)
    SWAP(2)
    SWAP(1)
}
