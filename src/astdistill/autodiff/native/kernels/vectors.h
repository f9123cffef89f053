/* As many channels at once as a register holds, in the vector extensions that gcc and clang share. Wider vectors would work as well, but gcc
 * takes them apart so badly that with AVX2 everything needs seven times as long. */

#include <stdlib.h>
#include <string.h>

#if defined __AVX512F__
#define L 16
#define OF_ALL_LANES(F, k) \
    F(0, k), F(1, k), F(2, k), F(3, k), F(4, k), F(5, k), F(6, k), F(7, k), F(8, k), F(9, k), F(10, k), F(11, k), F(12, k), F(13, k), F(14, k), F(15, k)
#elif defined __AVX__
#define L 8
#define OF_ALL_LANES(F, k) F(0, k), F(1, k), F(2, k), F(3, k), F(4, k), F(5, k), F(6, k), F(7, k)
#else
#define L 4
#define OF_ALL_LANES(F, k) F(0, k), F(1, k), F(2, k), F(3, k)
#endif

typedef float v __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef int vi __attribute__((vector_size(4 * L), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE v splat(float number) { return number - (v){}; }
INLINE v load(const float *from) { return *(const v *)from; }
INLINE void store(float *to, v value) { *(v *)to = value; }
INLINE v where(vi mask, v value) { return (v)((vi)value & mask); }
INLINE vi positive(v value) { return ~(vi)(value <= 0); } /* what is not a number passes, as in torch */

/* Memory for so many numbers, on a cache line's boundary. */
static float *room(long numbers) { return aligned_alloc(64, (numbers * sizeof(float) + 63) / 64 * 64); }

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Blocks of k: the lower half of `a` beside that of `b`, and the upper halves. */
#define LOWER(lane, k) ((lane) & (k) ? (lane) - (k) + L : (lane))
#define UPPER(lane, k) ((lane) & (k) ? (lane) + L : (lane) + (k))
#define SWAP(k)                                                          \
    for (int i = 0; i < L; i++)                                          \
        if (!(i & k)) {                                                  \
            v low = SHUFFLE(to[i], to[i + k], OF_ALL_LANES(LOWER, k));   \
            to[i + k] = SHUFFLE(to[i], to[i + k], OF_ALL_LANES(UPPER, k)); \
            to[i] = low;                                                 \
        }

/* Rows become columns: off-diagonal blocks change places, the largest first. */
INLINE void transpose(v to[L]) {
#if L > 8
    SWAP(8)
#endif
#if L > 4
    SWAP(4)
#endif
    SWAP(2)
    SWAP(1)
}
