/* One block of the ConvNet (3x3 convolution, instance norm, ReLU, 2x2 average pooling) on a CPU: forward, tangent, and the adjoints of both.
 *
 * Convolutions between blocks are Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): 36 matrix products, done by the caller, around
 * two transforms, done here. They cost a quarter of the multiplications of the direct form. The first convolution sees so few channels that it
 * is done directly.
 *
 * Everything here is a loop over (image, block of 16 channels); such a plane fits into a core's cache, so that a whole block is computed
 * between reading its products and writing the next ones. Planes are [h w][16]. "Products" are [36 positions][tiles][channels] with the stride
 * `position` between positions. A dot names a tangent; `a` is the adjoint of a tangent and `b` that of a value.
 *
 * vectors.h, winograd.h, first.h and norm.h work on one plane; this file walks over images and blocks of channels.
 */

#include "vectors.h"

#include "first.h"
#include "norm.h"
#include "winograd.h"

typedef struct {
    long images, blocks;      /* n, and channels / 16 */
    long height, width;       /* of the convolution's output; the block's output is half of both */
    long inputs;              /* channels of the images for a first block, 0 for any other */
    long last;                /* whether the block's output goes to the linear layer as [n, channels, h/2, w/2] instead of as products */
    long position_in, position_out; /* strides of the products that come in, and of those that go out */
    long threads;
} Shape;

static long tiles(long height, long width) { return (height + 3) / 4 * ((width + 3) / 4); }

/* A frame around a plane of the pooled size, wide enough for whole tiles. */
static long frame_row(long width) { return 4 * ((width + 3) / 4) + 2; }
static long frame_size(long height, long width) { return frame_row(height) * frame_row(width) * L; }

/* Hand a pooled plane in its frame on: as factors of the next products, or channel by channel to the linear layer. */
static void hand_on(const Shape *k, long image, long block, const float *frame, float *out) {
    long height = k->height / 2, width = k->width / 2, channels = k->blocks * L, row = frame_row(width);
    if (!k->last) {
        factors_from_frame(frame, k->position_out, channels, height, width, out + image * tiles(height, width) * channels + block * L);
        return;
    }
    for (long c = 0; c < L; c++)
        for (long y = 0; y < height; y++)
            for (long x = 0; x < width; x++)
                out[((image * channels + block * L + c) * height + y) * width + x] = frame[((y + 1) * row + x + 1) * L + c];
}

/* The adjoint of hand_on; the frame holds zeros before. */
static void take_back(const Shape *k, long image, long block, const float *adjoint, float *frame) {
    long height = k->height / 2, width = k->width / 2, channels = k->blocks * L, row = frame_row(width);
    if (!k->last) {
        frame_from_factors(adjoint + image * tiles(height, width) * channels + block * L, k->position_out, channels, height, width, frame);
        return;
    }
    for (long c = 0; c < L; c++)
        for (long y = 0; y < height; y++)
            for (long x = 0; x < width; x++)
                frame[((y + 1) * row + x + 1) * L + c] = adjoint[((image * channels + block * L + c) * height + y) * width + x];
}

typedef struct {
    const float *source;   /* images [n, inputs, h, w] of a first block, else products */
    const float *weight;   /* of a first block: [blocks][9 inputs][16] */
    const float *bias, *gamma, *beta;
    float *z;              /* [n][blocks][h w][16] */
    float *out;
} Flow;

static void convolve(const Shape *k, const Flow *f, long image, long block, float *framed, float *z) {
    long channels = k->blocks * L;
    v bias = load(f->bias + block * L);
    if (k->inputs) {
        frame_image(f->source + image * k->inputs * k->height * k->width, k->inputs, k->height, k->width, framed);
        plane_from_image(framed, f->weight + block * 9 * k->inputs * L, k->inputs, k->height, k->width, bias, z);
    } else
        plane_from_products(f->source + image * tiles(k->height, k->width) * channels + block * L, k->position_in, channels, k->height,
                            k->width, bias, z);
}

/* Forward through one block: values where `primal` is set (else z and stats are read), tangents where `dot` is given. */
void block_forward(const Shape *k, const Flow *f, const Flow *dot, float *stats, long primal) {
    long pixels = k->height * k->width, row = frame_row(k->width / 2), size = frame_size(k->height / 2, k->width / 2);
    long framed_size = k->inputs * (k->height + 2) * (k->width + 2) + L;
#pragma omp parallel num_threads(k->threads)
    {
        float *frame = room(size + framed_size), *framed = frame + size, *inside = frame + (row + 1) * L;
        memset(frame, 0, size * sizeof(float));
#pragma omp for collapse(2) schedule(static)
        for (long image = 0; image < k->images; image++)
            for (long block = 0; block < k->blocks; block++) {
                long at = image * k->blocks + block;
                float *z = f->z + at * pixels * L, *kept = stats + at * 2 * L;
                v gamma = load(f->gamma + block * L), beta = load(f->beta + block * L);
                if (primal) {
                    convolve(k, f, image, block, framed, z);
                    Stats s = statistics(z, pixels);
                    store(kept, s.mean);
                    store(kept + L, s.scale);
                    activate(z, s, gamma, beta, k->height, k->width, inside, row);
                    hand_on(k, image, block, frame, f->out);
                }
                if (dot) {
                    float *zdot = dot->z + at * pixels * L;
                    Stats s = {load(kept), load(kept + L)};
                    convolve(k, dot, image, block, framed, zdot);
                    activate_tangent(z, zdot, s, gamma, load(dot->gamma + block * L), beta, load(dot->beta + block * L), k->height, k->width,
                                     inside, row);
                    hand_on(k, image, block, frame, dot->out);
                }
            }
        free(frame);
    }
}

typedef struct {
    const float *a, *b;     /* adjoints of the block's tangent and value: of products, or of the linear layer's features */
    float *to_a, *to_b;     /* where those of this block's own products go; not for a first block */
    float *gamma, *beta;    /* [n, channels]: each image's part of their adjoints */
    float *weight;          /* [n][blocks][9 inputs][16], a first block's; NULL where it is not wanted */
    float *images;          /* [n, inputs, h, w], a first block's; NULL where it is not wanted */
} Adjoint;

/* The adjoints of one plane's z, and of its tangent where `dot` is given; frames and planes are scratch for both. */
static void plane_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t, long image, long block,
                       float *frames, float *az, float *bz) {
    long at = image * k->blocks + block, pixels = k->height * k->width, row = frame_row(k->width / 2), inside = (row + 1) * L;
    long size = frame_size(k->height / 2, k->width / 2);
    const float *z = f->z + at * pixels * L;
    Stats s = {load(stats + at * 2 * L), load(stats + at * 2 * L + L)};
    v gamma = load(f->gamma + block * L), beta = load(f->beta + block * L);
    memset(frames, 0, (dot ? 2 : 1) * size * sizeof(float));
    take_back(k, image, block, t->b, frames);
    if (dot) {
        take_back(k, image, block, t->a, frames + size);
        pull_back_pair(z, dot->z + at * pixels * L, s, gamma, load(dot->gamma + block * L), beta, frames + size + inside, frames + inside, row,
                       k->height, k->width, az, bz, t->gamma + at * L, t->beta + at * L);
    } else
        pull_back(z, s, gamma, beta, frames + inside, row, k->height, k->width, bz, t->gamma + at * L, t->beta + at * L);
}

/* Back through one block behind another, to the adjoints of its products. */
void block_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t) {
    long pixels = k->height * k->width, size = frame_size(k->height / 2, k->width / 2), channels = k->blocks * L;
#pragma omp parallel num_threads(k->threads)
    {
        float *frames = room(2 * size + 2 * pixels * L), *az = frames + 2 * size, *bz = az + pixels * L;
#pragma omp for collapse(2) schedule(static)
        for (long image = 0; image < k->images; image++)
            for (long block = 0; block < k->blocks; block++) {
                long products = image * tiles(k->height, k->width) * channels + block * L;
                plane_back(k, f, dot, stats, t, image, block, frames, az, bz);
                products_from_plane(bz, k->position_in, channels, k->height, k->width, t->to_b + products);
                if (dot) products_from_plane(az, k->position_in, channels, k->height, k->width, t->to_a + products);
            }
        free(frames);
    }
}

/* Back through a first block, to its weights and to the images (whose number of pixels is a multiple of 16). The tangent came through
 * `dot`'s weights from `f`'s images, or through `f`'s weights from `dot`'s images. */
void first_block_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t) {
    long pixels = k->height * k->width, size = frame_size(k->height / 2, k->width / 2), rows = 9 * k->inputs;
    long framed_size = k->inputs * (k->height + 2) * (k->width + 2), image_size = k->inputs * pixels;
    int moved = dot && dot->source != f->source;
#pragma omp parallel num_threads(k->threads)
    {
        float *frames = room(2 * size + 2 * pixels * L + rows * pixels + 2 * framed_size), *az = frames + 2 * size, *bz = az + pixels * L;
        float *taps = bz + pixels * L, *framed = taps + rows * pixels, *framed_dot = framed + framed_size;
#pragma omp for schedule(static)
        for (long image = 0; image < k->images; image++) {
            if (t->images) memset(taps, 0, rows * pixels * sizeof(float));
            if (t->weight) frame_image(f->source + image * image_size, k->inputs, k->height, k->width, framed);
            if (t->weight && moved) frame_image(dot->source + image * image_size, k->inputs, k->height, k->width, framed_dot);
            for (long block = 0; block < k->blocks; block++) {
                plane_back(k, f, dot, stats, t, image, block, frames, az, bz);
                float *weight = t->weight ? t->weight + (image * k->blocks + block) * rows * L : NULL;
                if (weight) weights_from_plane(framed, bz, k->inputs, k->height, k->width, 0, weight);
                if (weight && moved) weights_from_plane(framed_dot, az, k->inputs, k->height, k->width, 1, weight);
                for (long p = 0; t->images && p < pixels; p += L) {
                    taps_from_pixels(bz + p * L, f->weight + block * rows * L, k->inputs, pixels, taps + p);
                    if (dot) taps_from_pixels(az + p * L, dot->weight + block * rows * L, k->inputs, pixels, taps + p);
                }
            }
            if (t->images) image_from_taps(taps, k->inputs, k->height, k->width, framed, t->images + image * image_size);
        }
        free(frames);
    }
}
