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
    long groups, groups_out; /* of images, for this block and for the next one */
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

/* Factors and products: for each group of images [36 positions][blocks][rows: its images x tiles][L]. Groups differ by one image at most. A gap behind
 * every position keeps the positions of one tile from all meeting in one set of the first-level cache. */
typedef struct { long images, groups, blocks, tiles; } Layout;
typedef struct { long first, end, rows, panel, position, at; } Group; /* its images, and where its numbers begin */

INLINE Layout layout(long images, long groups, long blocks, long height, long width) {
    return (Layout){images, groups, blocks, (height + 3) / 4 * ((width + 3) / 4)};
}

INLINE Group group_at(Layout y, long group) {
    long first = group * y.images / y.groups, end = (group + 1) * y.images / y.groups, rows = (end - first) * y.tiles, panel = rows * L;
    return (Group){first, end, rows, panel, y.blocks * panel + GAP, 36 * (y.blocks * first * y.tiles * L + group * GAP)};
}

/* The group that an image is in: the last one that begins at it or before it. */
INLINE Group group_of(Layout y, long image) { return group_at(y, ((image + 1) * y.groups - 1) / y.images); }

/* Numbers of the largest group. */
INLINE long largest(Layout y) { return 36 * ((y.images + y.groups - 1) / y.groups * y.tiles * y.blocks * L + GAP); }

/* Where a plane's tiles begin in its group. */
INLINE long place(Layout y, Group g, long image, long block) { return block * g.panel + (image - g.first) * y.tiles * L; }

/* A term of a sum of products: factors of one group, and a transformed kernel. */
typedef struct { const float *factors, *weight; } Term;

/* The 36 products of a group, or the sums of two; a second term without a kernel is none. */
INLINE void multiply(Term first, Term second, Group g, long blocks, float *to) {
    for (long p = 0; p < 36; p++) {
        long here = p * g.position, next = (p < 35 ? p + 1 : p) * g.position, kernel = p * kernel_size(blocks), numbers = blocks * g.panel;
        product(first.factors + here, first.weight + kernel, g.rows, blocks, g.panel, to + here, 0, ahead(first.factors + next, numbers));
        if (!second.weight) continue;
        product(second.factors + here, second.weight + kernel, g.rows, blocks, g.panel, to + here, 1, ahead(second.factors + next, numbers));
    }
}

/* A frame of zeros around a plane, wide enough for whole tiles. */
INLINE long frame_row(long width) { return 4 * ((width + 3) / 4) + 2; }
INLINE long frame_size(long height, long width) { return frame_row(height) * frame_row(width) * L; }
