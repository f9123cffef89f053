/* Every function of one plane or one matrix over odd shapes, each tensor in an allocation of exactly its size, for `make sanitize`. */

#include "filters.c"

#include "first.h"
#include "norm.h"

#include <stdio.h>

static const long SIDES[] = {1, 2, 4, 5, 7, 8, 33, 64};
enum { COUNT = sizeof SIDES / sizeof *SIDES };

static double total;

/* Numbers that are not zero; every one that is written is read again by `done`. */
static float *filled(long numbers) {
    float *made = malloc(numbers * sizeof(float));
    for (long k = 0; k < numbers; k++) made[k] = (float)((k * 37 + 11) % 101) / 50 - 1;
    return made;
}

static void done(float *made, long numbers) {
    for (long k = 0; k < numbers; k++) total += made[k];
    free(made);
}

static void winograd_planes(long height, long width) {
    long tiles = (height + 3) / 4 * ((width + 3) / 4), position = tiles * L, pixels = height * width * L, framed = frame_size(height, width);
    float *plane = filled(pixels), *products = filled(36 * position), *frame = filled(framed);
    products_from_plane(plane, position, height, width, products);
    plane_from_products(products, position, height, width, splat(1), plane);
    factors_from_frame(frame, position, height, width, products);
    frame_from_factors(products, position, height, width, frame);
    done(plane, pixels), done(products, 36 * position), done(frame, framed);
}

static void first_planes(long inputs, long height, long width) {
    long pixels = height * width, framed = inputs * (height + 2) * (width + 2), weights = 9 * inputs * L, whole = pixels / L * L;
    float *image = filled(inputs * pixels), *frame = filled(framed), *weight = filled(weights), *plane = filled(pixels * L);
    float *taps = filled(9 * inputs * pixels);
    frame_image(image, inputs, height, width, frame);
    plane_from_image(frame, weight, inputs, height, width, splat(1), plane);
    Sent sent[] = {{plane, weight}, {plane, weight}};
    for (int planes = 1; planes <= 2; planes++) taps_from_planes(sent, planes, inputs, whole, pixels, taps);
    weights_from_plane(frame, plane, inputs, height, width, 0, weight);
    weights_from_plane(frame, plane, inputs, height, width, 1, weight);
    image_from_taps(taps, pixels, inputs, height, width, frame, image);
    done(image, inputs * pixels), done(frame, framed), done(weight, weights), done(plane, pixels * L), done(taps, 9 * inputs * pixels);
}

/* Sides are even, since 2x2 pixels become one. */
static void norm_planes(long height, long width) {
    long pixels = height * width, pooled = pixels / 4 * L;
    float *z = filled(pixels * L), *zdot = filled(pixels * L), *a = filled(pooled), *b = filled(pooled), *out = filled(pooled);
    float *az = filled(pixels * L), *bz = filled(pixels * L), *gamma = filled(L), *beta = filled(L);
    Stats s = statistics(z, pixels);
    v one = load(gamma), other = load(beta);
    activate(z, s, one, other, height, width, out, width / 2);
    activate_tangent(z, zdot, s, one, other, other, one, height, width, out, width / 2);
    pull_back(z, s, one, other, b, height, width, bz, gamma, beta);
    pull_back_pair(z, zdot, s, one, other, other, a, b, height, width, az, bz, gamma, beta);
    done(z, pixels * L), done(zdot, pixels * L), done(a, pooled), done(b, pooled), done(out, pooled);
    done(az, pixels * L), done(bz, pixels * L), done(gamma, L), done(beta, L);
}

static void matrices(long rows, long blocks) {
    long panel = rows * L, square = blocks * blocks * L * L;
    float *left = filled(blocks * panel), *right = filled(square), *to = filled(blocks * panel), *sums = filled(square);
    Ahead next = ahead(left, blocks * panel);
    product(left, right, rows, blocks, panel, to, 0, next);
    product(left, right, rows, blocks, panel, to, 1, next);
    outer(left, to, rows, blocks, panel, sums, next, next);
    done(left, blocks * panel), done(right, square), done(to, blocks * panel), done(sums, square);
}

static void filters(long blocks, long threads) {
    long channels = blocks * L, size = 36 * kernel_size(blocks);
    float *weight = filled(9 * channels * channels), *kernel = filled(size), *turned = filled(size);
    kernel_forward(weight, blocks, threads, kernel, NULL);
    kernel_forward(weight, blocks, threads, kernel, turned);
    done(weight, 9 * channels * channels), done(kernel, size), done(turned, size);
}

/* With an argument, one number is read behind an allocation: what runs this program must see it. */
int main(int count, char **words) {
    (void)words;
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++) {
            winograd_planes(SIDES[i], SIDES[j]);
            for (long inputs = 1; inputs <= 16; inputs += 5) first_planes(inputs, SIDES[i], SIDES[j]);
            if (SIDES[i] % 2 == 0 && SIDES[j] % 2 == 0) norm_planes(SIDES[i], SIDES[j]);
        }
    for (long rows = 1; rows <= 70; rows++)
        for (long blocks = 1; blocks <= 5; blocks++) matrices(rows, blocks);
    for (long blocks = 1; blocks <= 3; blocks++)
        for (long threads = 1; threads <= 3; threads++) filters(blocks, threads);
    if (count > 1) {
        float *few = filled(8 * L);
        total += load(few + 8 * L - L + 1)[L - 1];
        done(few, 8 * L);
    }
    printf("%d lanes, sum %g\n", L, total);
    return total - total != 0;
}
