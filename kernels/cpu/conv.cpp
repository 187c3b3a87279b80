// Convolution with groups for the cpu device, forward and data gradient, in registers.
//
// Formula   As in conv.cu: y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, p·stride−pad+r, …, c] · w[k,r,s,c].
// Layout    NHWC. An image is copied once into zeros as wide as the padding; from there every
//           tap of every pixel is a plain address: no matrix of patches is ever made. Groups
//           are copied apart. The taps of a pixel are `Runs`, R stretches of S·C/groups
//           neighbours in memory.
// Tile      Pixels × N vectors of features, in registers for all taps: one number of x,
//           broadcast, times N vectors of filters, which `pack` has laid out in this order. Or two
//           neighbours of x, broadcast as one, times vectors with two taps of each feature, whose
//           sums are added at last: 24 features are 3 whole vectors for two taps, not 2 for each.
// Gradient  dx is a forward pass over dy with filters turned round (`pack` turns them) and
//           padding R − 1 − pad. Stride 1 only; conv.py knows another way for the rest.
// Mapping   A call takes some images on one thread, `pack` some blocks of filters. No sum depends
//           on how they are shared out.
#include "conv.h"

// What is done to a pixel's sums on their way to y; null pointers: nothing.
template <typename T>
struct Finish {
    const T* bias;    // of this block's first feature
    const T* relu_y;  // at this image's place in an array like y
    bool relu;
    // Count: a constant where it can be, for loops of whole vectors.
    template <typename Count>
    void operator()(const T* line, T* __restrict__ y, i64 at, Count width) const {
        for (i64 i = 0; i < width; i++) {
            T sum = bias ? line[i] + bias[i] : line[i];
            if (relu) sum = sum < 0 ? T(0) : sum;  // NaN stays
            y[at + i] = relu_y && !(relu_y[at + i] > 0) ? T(0) : sum;
        }
    }
};

// `count` pixels from pixel on, whose taps begin at `places` of x, one block of features, in a tile
// of M rows. x and y, of k features, begin at the group's channels, and the block's.
template <typename T, int M, int LANES, int TAPS>
void forward_tile(const T* x, const i64* places, const T* panel, T* y, i64 k, const Runs& runs,
                  i64 width, i64 pixel, i64 count, const Finish<T>& finish) {
    const T* at[M];  // beyond the last pixel: the last again
    for (int m = 0; m < M; m++) at[m] = x + places[pixel + std::min<i64>(m, count - 1)];
    Tile<T, M, LANES> tile;
    for (i64 i = 0; i < runs.count; i++)
        for (i64 c = runs.offset(i), end = c + runs.length; c < end; c += TAPS, panel += LANES)
            tile.add(panel, [&](int m) { return number_at<T, TAPS>(at[m] + c); });
    for (int m = 0; m < M && m < count; m++) {
        constexpr std::integral_constant<i64, LANES / TAPS> whole;
        T sums[LANES], pairs[whole], *line = TAPS == 2 ? pairs : sums;
        tile.write(m, sums);
        for (int i = 0; TAPS == 2 && i < whole; i++) pairs[i] = sums[2 * i] + sums[2 * i + 1];
        if (width == whole)
            finish(line, y, (pixel + m) * k, whole);
        else
            finish(line, y, (pixel + m) * k, width);
    }
}

// Items: images. panels: of conv_pack. relu_y: like y, or null: y is 0 where it is not positive.
template <typename T>
EXPORT void conv_forward(i64 start, i64 stop, const T* x, const T* panels, const T* bias,
                         const T* relu_y, T* y, const Shape* shape, bool relu) {
    const Shape& f = *shape;
    Runs runs(f);
    Blocks<T> blocks = blocks_of<T>(f);
    i64 pair = pair_of<T>(f);
    const i64* places = places_of(f);
    i64 size = f.p * f.q * f.k;
    T* whole = is_copied(f) ? zeros_for<T>(1, f) : nullptr;
    for (i64 n = start; n < stop; n++) {
        const T* image = x + n * f.h * f.w * f.c;
        if (whole) copy_groups(image, f, whole, 0, f.groups), image = whole;
        for (i64 g = 0; g < f.groups; g++)
            for (i64 b = 0; b < blocks.count; b++) {
                i64 first = blocks.first(b), width = blocks.width(b) / pair;
                i64 from = g * features_of(f) + first / pair;
                const T* panel = panels + (g * blocks.lanes + first) * (runs.taps() / pair);
                const T* in = image + g * group_of(f);
                T* out = y + n * size + from;
                Finish<T> finish{bias ? bias + from : nullptr,
                                 relu_y ? relu_y + n * size + from : nullptr, relu};
                by_features<T>(blocks.wide(b), pair, [&](auto wide, auto taps) {
                    constexpr i64 VECTORS = vectors_of<T>(wide);
                    Cut tiles(f.p * f.q, high_of(VECTORS));
                    for (i64 t = 0; t < tiles.count; t++)
                        by_height<VECTORS>(tiles.size(t), [&](auto rows) {
                            forward_tile<T, rows, wide, taps>(in, places, panel, out, f.k, runs,
                                                              width, tiles.first(t),
                                                              tiles.size(t), finish);
                        });
                });
            }
    }
}
INSTANTIATE(conv_forward<float>, conv_forward<double>);

// Filters in the order in which conv_forward reads them, [group][block][tap][feature], or [group]
// [block][pair of taps][feature][tap], zeros beyond the last feature. Items: `parts` equal shares of
// all blocks. turned: shape is the problem of dx, whose features are the channels of w
// (K,R,S,C/groups), and whose channels its features.
template <typename T>
EXPORT void conv_pack(i64 start, i64 stop, const T* w, T* panels, const Shape* shape, i64 parts,
                      bool turned) {
    const Shape& f = *shape;
    i64 depth = depth_of(f), features = features_of(f), window = f.r * f.s;
    Blocks<T> blocks = blocks_of<T>(f);
    i64 count = f.groups * blocks.count, pair = pair_of<T>(f);
    for (i64 item = start * count / parts; item < stop * count / parts; item++) {
        i64 g = item / blocks.count, b = item % blocks.count;
        i64 from = blocks.first(b) / pair, lanes = blocks.wide(b), tap = 0;
        i64 width = blocks.width(b) / pair, across = turned ? 1 : window * depth;
        T* panel = panels + (g * blocks.lanes / pair + from) * window * depth;
        for (i64 t = 0; t < window; t++)
            for (i64 c = 0; c < depth; c++, tap++) {
                T* to = panel + tap / pair * lanes + tap % pair;
                i64 line = (g * depth + c) * window + window - 1 - t;
                const T* taps = turned ? w + line * features + from
                                       : w + (g * features + from) * across + t * depth + c;
                for (i64 i = 0; i < width; i++) to[i * pair] = taps[i * across];
                for (i64 i = width; i < lanes / pair; i++) to[i * pair] = 0;
            }
    }
}
INSTANTIATE(conv_pack<float>, conv_pack<double>);
