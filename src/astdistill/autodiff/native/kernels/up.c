/* Forward through one block: values, and their tangents. */

#include "shape.h"

#include "first.h"
#include "norm.h"
#include "winograd.h"

const long lanes = L;

typedef struct { float *frame, *framed, *products; } Room;

/* Hand a pooled plane in its frame on: as factors of the next products, or channel by channel to the linear layer. */
static void hand_on(const Shape *k, long image, long block, const float *frame, float *out) {
    long height = k->height / 2, width = k->width / 2, channels = k->blocks * L, row = frame_row(width);
    if (!k->last) {
        Layout y = layout(k->images, k->groups_out, k->blocks, height, width);
        Group g = group_of(y, image);
        factors_from_frame(frame, g.position, height, width, out + g.at + place(y, g, image, block));
        return;
    }
    for (long c = 0; c < L; c++)
        for (long y = 0; y < height; y++)
            for (long x = 0; x < width; x++)
                out[((image * channels + block * L + c) * height + y) * width + x] = frame[((y + 1) * row + x + 1) * L + c];
}

/* One plane's z, from its image or from the products of its group. */
static void convolve(const Shape *k, const Flow *f, Layout y, Group g, long image, long block, Room room, float *z) {
    v bias = load(f->bias + block * L);
    if (k->inputs)
        plane_from_image(room.framed, f->weight + block * 9 * k->inputs * L, k->inputs, k->height, k->width, bias, z);
    else
        plane_from_products(room.products + place(y, g, image, block), g.position, k->height, k->width, bias, z);
}

/* The values of one plane, or with `dot` its tangents, whose values are there. */
static void plane_forward(const Shape *k, const Flow *f, const Flow *dot, float *stats, Layout y, Group g, long image, long block, Room room) {
    long at = image * k->blocks + block, pixels = k->height * k->width, row = frame_row(k->width / 2);
    float *z = f->z + at * pixels * L, *kept = stats + at * 2 * L, *inside = room.frame + (row + 1) * L;
    v gamma = load(f->gamma + block * L), beta = load(f->beta + block * L);
    if (dot) {
        float *zdot = dot->z + at * pixels * L;
        Stats s = {load(kept), load(kept + L)};
        convolve(k, dot, y, g, image, block, room, zdot);
        activate_tangent(z, zdot, s, gamma, load(dot->gamma + block * L), beta, load(dot->beta + block * L), k->height, k->width, inside, row);
    } else {
        convolve(k, f, y, g, image, block, room, z);
        Stats s = statistics(z, pixels);
        store(kept, s.mean);
        store(kept + L, s.scale);
        activate(z, s, gamma, beta, k->height, k->width, inside, row);
    }
    hand_on(k, image, block, room.frame, dot ? dot->out : f->out);
}

/* All planes of a group: z = V U, and its tangent V' U + V U'. */
static void group_forward(const Shape *k, const Flow *f, const Flow *dot, float *stats, Layout y, Group g, Room room) {
    const float *source = dot ? dot->source : f->source;
    long image_size = k->inputs * k->height * k->width;
    if (!k->inputs) {
        Term of_values = {f->source + g.at, dot ? dot->weight : NULL};
        multiply((Term){source + g.at, f->weight}, of_values, g, k->blocks, room.products);
    }
    for (long image = g.first; image < g.end; image++) {
        if (k->inputs) frame_image(source + image * image_size, k->inputs, k->height, k->width, room.framed);
        for (long block = 0; block < k->blocks; block++) plane_forward(k, f, dot, stats, y, g, image, block, room);
    }
}

/* Values where `primal` is set (else z and stats are read), tangents where `dot` is given. */
void block_forward(const Shape *k, const Flow *f, const Flow *dot, float *stats, long primal) {
    Layout y = layout(k->images, k->groups, k->blocks, k->height, k->width);
    long size = frame_size(k->height / 2, k->width / 2), framed = k->inputs * (k->height + 2) * (k->width + 2) + L;
#pragma omp parallel num_threads(k->threads)
    {
        float *frame = room(size + (k->inputs ? framed : largest(y)));
        Room here = {frame, frame + size, frame + size};
        memset(frame, 0, size * sizeof(float));
#pragma omp for schedule(static)
        for (long group = 0; group < k->groups; group++) {
            if (primal) group_forward(k, f, NULL, stats, y, group_at(y, group), here);
            if (dot) group_forward(k, f, dot, stats, y, group_at(y, group), here);
        }
        free(frame);
    }
}
