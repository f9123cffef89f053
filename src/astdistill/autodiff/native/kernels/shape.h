/* One block of the ConvNet (3x3 convolution, instance norm, ReLU, 2x2 average pooling) on a CPU: what its kernels are told, and how tensors lie.
 *
 * Convolutions between blocks are Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): 36 matrix products around two transforms, a quarter
 * of the multiplications of the direct form. The first convolution sees so few channels that it is done directly.
 *
 * Everything is a loop over small groups of images, whose tiles are enough rows for a product and whose products are few enough for a core's
 * cache, and inside over planes (image, L channels), [h w][L]. A "factor" is what a plane gives to a product. A dot names a tangent; `a` is
 * the adjoint of a tangent and `b` that of a value.
 *
 * L is the number of channels that a register holds. vectors.h, winograd.h, first.h and norm.h work on one plane and products.h on one matrix;
 * up.c and down.c walk over groups, images and blocks of channels, and filters.c over kernels.
 */

#include "vectors.h"

#include "products.h"

typedef struct {
    long images, blocks;   /* n, and channels / L */
    long height, width;    /* of the convolution's output; the block's output is half of both */
    long inputs;           /* channels of the images for a first block, 0 for any other */
    long last;             /* whether the block's output goes to the linear layer as [n, channels, h/2, w/2] instead of as factors */
    long group, group_out; /* images in a group, for this block and for the next one */
    long threads;
} Shape;

typedef struct {
    const float *source;   /* images [n, inputs, h, w] of a first block, else factors */
    const float *weight;   /* of a first block [blocks][9 inputs][L], else [36][blocks out][channels in][L]; NULL: a direction without it */
    const float *turned;   /* [36][blocks in][channels out][L], not of a first block; on the way down */
    const float *bias, *gamma, *beta;
    float *z;              /* [n][blocks][h w][L] */
    float *out;
} Flow;

typedef struct {
    const float *a, *b;     /* adjoints of the block's tangent and value: [n][blocks][h/2 w/2][L], or of the linear layer's features */
    float *to_a, *to_b;     /* where those of this block's own products go; not for a first block */
    float *below_a, *below_b; /* and those of what came in, [n][blocks][h w][L]; NULL for an a that is not wanted */
    float *gamma, *beta;    /* [n, channels]: each image's part of their adjoints */
    float *weight;          /* [n][blocks][9 inputs][L], a first block's; NULL where it is not wanted */
    float *images;          /* [n, inputs, h, w], a first block's; NULL where it is not wanted */
} Adjoint;

#define GAP 16

/* Numbers of a transformed kernel at one of its 36 positions, [blocks][channels][L], with a gap as below. */
INLINE long kernel_size(long blocks) { return blocks * L * blocks * L + GAP; }

/* Factors and products: [groups][36 positions][blocks][images of a group x tiles][L]. A gap behind every position keeps the positions
 * of one tile from all meeting in one set of the first-level cache. */
typedef struct { long group, tiles, panel, position, size; } Layout;

INLINE Layout layout(long blocks, long height, long width, long group) {
    long tiles = (height + 3) / 4 * ((width + 3) / 4), panel = group * tiles * L, position = blocks * panel + GAP;
    return (Layout){group, tiles, panel, position, 36 * position};
}

/* Where a plane's tiles begin. */
INLINE long place(Layout y, long image, long block) { return image / y.group * y.size + block * y.panel + image % y.group * y.tiles * L; }

INLINE long groups(Layout y, long images) { return (images + y.group - 1) / y.group; }

/* The image behind the last one of a group, and its rows: tiles of all its images. */
INLINE long end_of(Layout y, long group, long images) { return (group + 1) * y.group < images ? (group + 1) * y.group : images; }
INLINE long rows_of(Layout y, long group, long images) { return (end_of(y, group, images) - group * y.group) * y.tiles; }

/* A term of a sum of products: factors of one group, and a transformed kernel. */
typedef struct { const float *factors, *weight; } Term;

/* The 36 products of a group of so many rows, or the sums of two; a second term without a kernel is none. */
INLINE void multiply(Term first, Term second, long rows, long blocks, Layout y, float *to) {
    for (long p = 0; p < 36; p++) {
        long here = p * y.position, next = (p < 35 ? p + 1 : p) * y.position, kernel = p * kernel_size(blocks);
        product(first.factors + here, first.weight + kernel, rows, blocks, y.panel, to + here, 0, first.factors + next);
        if (!second.weight) continue;
        product(second.factors + here, second.weight + kernel, rows, blocks, y.panel, to + here, 1, second.factors + next);
    }
}

/* A frame of zeros around a plane, wide enough for whole tiles. */
INLINE long frame_row(long width) { return 4 * ((width + 3) / 4) + 2; }
INLINE long frame_size(long height, long width) { return frame_row(height) * frame_row(width) * L; }
