/* Back through one block: the adjoints of values, and of their tangents. */

#include "shape.h"

#include "first.h"
#include "norm.h"
#include "winograd.h"

/* The adjoint of a pooled plane; `turned` has room for one. */
static const float *take_back(const Shape *k, long image, long block, const float *adjoint, float *turned) {
    long pixels = k->height / 2 * (k->width / 2), at = (image * k->blocks + block) * pixels * L;
    if (!k->last) return adjoint + at;
    for (long c = 0; c < L; c++)
        for (long p = 0; p < pixels; p++) turned[p * L + c] = adjoint[at + c * pixels + p];
    return turned;
}

/* The adjoints of one plane's z, and of its tangent where `dot` is given; `pooled` has room for two planes of the block's output. */
static void plane_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t, long image, long block,
                       float *pooled, float *az, float *bz) {
    long at = image * k->blocks + block, pixels = k->height * k->width;
    const float *z = f->z + at * pixels * L, *b = take_back(k, image, block, t->b, pooled);
    Stats s = {load(stats + at * 2 * L), load(stats + at * 2 * L + L)};
    v gamma = load(f->gamma + block * L), beta = load(f->beta + block * L);
    if (dot) {
        const float *a = take_back(k, image, block, t->a, pooled + pixels / 4 * L);
        pull_back_pair(z, dot->z + at * pixels * L, s, gamma, load(dot->gamma + block * L), beta, a, b, k->height, k->width, az, bz,
                       t->gamma + at * L, t->beta + at * L);
    } else
        pull_back(z, s, gamma, beta, b, k->height, k->width, bz, t->gamma + at * L, t->beta + at * L);
}

/* The planes that came into the block, from the adjoints of a group's factors. */
static void planes_below(const Shape *k, Layout y, Group g, const float *factors, float *frame, float *below) {
    long row = frame_row(k->width) * L, line = k->width * L, plane = k->height * line;
    for (long image = g.first; image < g.end; image++)
        for (long block = 0; block < k->blocks; block++) {
            float *to = below + (image * k->blocks + block) * plane;
            memset(frame, 0, frame_size(k->height, k->width) * sizeof(float));
            frame_from_factors(factors + place(y, g, image, block), g.position, k->height, k->width, frame);
            for (long h = 0; h < k->height; h++) memcpy(to + h * line, frame + (h + 1) * row + L, line * sizeof(float));
        }
}

/* Back through one block behind another, to the adjoints of its products, P and P' (of the tangents), and of its factors: P U^T + P' U'^T, P' U^T. */
void block_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t) {
    Layout y = layout(k->images, k->groups, k->blocks, k->height, k->width);
    long pixels = k->height * k->width, framed = frame_size(k->height, k->width);
#pragma omp parallel num_threads(k->threads)
    {
        float *az = room(3 * pixels * L + framed + largest(y)), *bz = az + pixels * L, *pooled = bz + pixels * L;
        float *frame = pooled + pixels * L, *factors = frame + framed;
#pragma omp for schedule(static)
        for (long group = 0; group < k->groups; group++) {
            Group g = group_at(y, group);
            for (long image = g.first; image < g.end; image++)
                for (long block = 0; block < k->blocks; block++) {
                    plane_back(k, f, dot, stats, t, image, block, pooled, az, bz);
                    products_from_plane(bz, g.position, k->height, k->width, t->to_b + g.at + place(y, g, image, block));
                    if (dot) products_from_plane(az, g.position, k->height, k->width, t->to_a + g.at + place(y, g, image, block));
                }
            Term of_tangents = {dot ? t->to_a + g.at : NULL, dot ? dot->turned : NULL};
            multiply((Term){t->to_b + g.at, f->turned}, of_tangents, g, k->blocks, factors);
            planes_below(k, y, g, factors, frame, t->below_b);
            if (!t->below_a) continue;
            multiply((Term){t->to_a + g.at, f->turned}, (Term){}, g, k->blocks, factors);
            planes_below(k, y, g, factors, frame, t->below_a);
        }
        free(az);
    }
}

/* Back through a first block, to its weights and to the images (whose number of pixels is a multiple of 16). The tangent came through
 * `dot`'s weights from `f`'s images, or through `f`'s weights from `dot`'s images. */
void first_block_back(const Shape *k, const Flow *f, const Flow *dot, const float *stats, const Adjoint *t) {
    long pixels = k->height * k->width, rows = 9 * k->inputs, apart = pixels + GAP;
    long framed_size = k->inputs * (k->height + 2) * (k->width + 2), image_size = k->inputs * pixels;
    int moved = dot && dot->source != f->source;
#pragma omp parallel num_threads(k->threads)
    {
        float *az = room(3 * pixels * L + rows * apart + 2 * framed_size), *bz = az + pixels * L, *pooled = bz + pixels * L;
        float *taps = pooled + pixels * L, *framed = taps + rows * apart, *framed_dot = framed + framed_size;
#pragma omp for schedule(static)
        for (long image = 0; image < k->images; image++) {
            if (t->images) memset(taps, 0, rows * apart * sizeof(float));
            if (t->weight) frame_image(f->source + image * image_size, k->inputs, k->height, k->width, framed);
            if (t->weight && moved) frame_image(dot->source + image * image_size, k->inputs, k->height, k->width, framed_dot);
            for (long block = 0; block < k->blocks; block++) {
                plane_back(k, f, dot, stats, t, image, block, pooled, az, bz);
                float *weight = t->weight ? t->weight + (image * k->blocks + block) * rows * L : NULL;
                if (weight) weights_from_plane(framed, bz, k->inputs, k->height, k->width, 0, weight);
                if (weight && moved) weights_from_plane(framed_dot, az, k->inputs, k->height, k->width, 1, weight);
                Sent sent[2] = {{bz, f->weight + block * rows * L}};
                if (dot) sent[1] = (Sent){az, dot->weight + block * rows * L};
                if (t->images) taps_from_planes(sent, dot ? 2 : 1, k->inputs, pixels, apart, taps);
            }
            if (t->images) image_from_taps(taps, apart, k->inputs, k->height, k->width, framed, t->images + image * image_size);
        }
        free(az);
    }
}
