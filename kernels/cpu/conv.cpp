// Convolution with groups for the cpu device, forward and both gradients, in registers.
//
// Formula   As in conv.cu: y[n,p,q,k] = b[k] + Σ_{r,s,c} x[n, p·stride−pad+r, …, c] · w[k,r,s,c].
// Layout    NHWC. An image is copied once into zeros as wide as the padding; from there every
//           tap of every pixel is a plain address: no matrix of patches is ever made. The taps
//           of a pixel are `Runs`, stretches of neighbours in memory: R of S·C numbers; with
//           groups, R·S of C/groups.
// Tile      Sums of MR rows × N vectors stay in registers for the whole of K:
//
//             forward    MR pixels × N vectors of features. One number of x, broadcast, times N
//                        vectors of filters, which `pack` has laid out in this order.
//             weights    MR features × N vectors of a run, over all pixels of an image. One
//                        number of dy, broadcast, times N vectors of x as they lie there.
//
//           With 32 registers of 16 floats 8 × 3 vectors are sums, 3 hold the vectors: 24
//           multiply-adds for 11 loads, which all hit the first two caches.
// Gradient  dx is a forward pass over dy with filters turned round (`pack` turns them) and
//           padding R − 1 − pad. Stride 1 only; conv.py knows another way for the rest.
// Mapping   A call takes some images, or for weights some features of all images, on one
//           thread. No sum depends on how they are shared out.
// Rounding  Multiply-adds are fused where the processor can, as STDC FP_CONTRACT allows.
#include <vector>

#include "native.h"

#pragma STDC FP_CONTRACT ON
#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif
constexpr int MR = REGISTERS / 4, MOST = 3;  // rows of a tile, and vectors at most
constexpr int ITEM = 8;                      // features of an item of conv_weights
static_assert(ITEM % MR == 0, "an item is some tiles");

template <typename T>
constexpr int W = BYTES / sizeof(T);
template <typename T>
using Vec = typename Lanes<T, W<T>>::type;

// One image's problem, as conv_native.py fills it in.
struct Shape {
    i64 h, w, c, k, r, s, stride_h, stride_w, pad_h, pad_w, groups, p, q;
};
inline i64 depth_of(const Shape& f) { return f.c / f.groups; }
inline i64 features_of(const Shape& f) { return f.k / f.groups; }
inline i64 row_of(const Shape& f) { return (f.w + 2 * f.pad_w) * f.c; }  // of a padded image

// This thread's memory for such a use, of unspecified content.
template <typename T, int USE>
T* room(i64 count) {
    thread_local std::vector<T> held;
    if ((i64)held.size() < count) held.resize(count);
    return held.data();
}
enum { PADDED, ROWS };

struct Runs {
    i64 count, length, across, row, column;
    explicit Runs(const Shape& f) : row(row_of(f)), column(f.c) {
        bool whole = f.groups == 1;
        count = whole ? f.r : f.r * f.s;
        length = whole ? f.s * f.c : depth_of(f);
        across = whole ? 1 : f.s;
    }
    i64 offset(i64 i) const { return i / across * row + i % across * column; }
    i64 taps() const { return count * length; }
};

// Numbers side by side, cut into blocks of up to MOST vectors, as even as can be.
template <typename T>
struct Blocks {
    i64 size, vectors, count;
    explicit Blocks(i64 size) : size(size), vectors((size + W<T> - 1) / W<T>),
                                count((vectors + MOST - 1) / MOST) {}
    i64 first(i64 block) const { return block * vectors / count; }  // vector
    i64 width(i64 block) const {  // numbers
        i64 from = first(block) * W<T>, to = first(block + 1) * W<T>;
        return (to < size ? to : size) - from;
    }
};

// The image within zeros, in this thread's room with MOST vectors behind it; itself if it
// needs no zeros and need not be copied.
template <typename T>
const T* padded(const T* image, const Shape& f, bool copy = false) {
    if (!f.pad_h && !f.pad_w && !copy) return image;
    i64 edge = f.pad_w * f.c, inside = f.w * f.c, high = f.pad_h * row_of(f);
    T* whole = room<T, PADDED>(2 * high + f.h * row_of(f) + MOST * W<T>);
    memset(whole, 0, high * sizeof(T));
    T* at = whole + high;
    for (i64 h = 0; h < f.h; h++, at += row_of(f)) {
        memset(at, 0, edge * sizeof(T));
        memcpy(at + edge, image + h * inside, inside * sizeof(T));
        memset(at + edge + inside, 0, edge * sizeof(T));
    }
    memset(at, 0, high * sizeof(T));
    return whole;
}

template <typename T, int N>
struct Tile {
    Vec<T> sums[MR][N] = {};

    // Adds number(m) times N vectors to row m.
    template <typename Number>
    inline __attribute__((always_inline)) void add(const T* vectors, Number number) {
        Vec<T> b[N];
        for (int v = 0; v < N; v++) b[v] = load<Vec<T>>(vectors + v * W<T>);
        for (int m = 0; m < MR; m++) {
            T a = number(m);
            for (int v = 0; v < N; v++) sums[m][v] += a * b[v];
        }
    }
    void take(int m, T* line) const {
        for (int v = 0; v < N; v++) store(line + v * W<T>, sums[m][v]);
    }
};

// What is done to sums before they are written; null pointers: nothing.
template <typename T>
struct Finish {
    const T* bias;    // of this block's first feature
    const T* relu_y;  // at this image's place in an array like y
    bool relu;
    void operator()(T* line, i64 at, i64 width) const {
        if (bias)
            for (i64 i = 0; i < width; i++) line[i] += bias[i];
        if (relu)
            for (i64 i = 0; i < width; i++) line[i] = line[i] < 0 ? T(0) : line[i];  // NaN stays
        if (relu_y)
            for (i64 i = 0; i < width; i++) line[i] = relu_y[at + i] > 0 ? line[i] : T(0);
    }
};

// One image, one block of features. x and y begin at the group's channels, and the block's.
template <typename T, int N>
void forward_block(const T* x, const T* panel, T* y, const Shape& f, const Runs& runs, i64 width,
                   const Finish<T>& finish) {
    i64 pixels = f.p * f.q, p = 0, q = 0;
    for (i64 pixel = 0; pixel < pixels; pixel += MR) {
        const T* at[MR];
        for (int m = 0; m < MR; m++) {  // beyond the last pixel: the last again
            at[m] = x + p * f.stride_h * row_of(f) + q * f.stride_w * f.c;
            if (pixel + m + 1 < pixels && ++q == f.q) q = 0, p++;
        }
        Tile<T, N> tile;
        const T* vectors = panel;
        for (i64 i = 0; i < runs.count; i++) {
            const T* rows[MR];
            for (int m = 0; m < MR; m++) rows[m] = at[m] + runs.offset(i);
            for (i64 c = 0; c < runs.length; c++, vectors += N * W<T>)
                tile.add(vectors, [&](int m) { return rows[m][c]; });
        }
        for (int m = 0; m < MR && pixel + m < pixels; m++) {
            T line[N * W<T>];
            tile.take(m, line);
            finish(line, (pixel + m) * f.k, width);
            memcpy(y + (pixel + m) * f.k, line, width * sizeof(T));
        }
    }
}

// Items: images. panels: of conv_pack. relu_y: like y, or null: y is 0 where it is not positive.
template <typename T>
EXPORT void conv_forward(i64 start, i64 stop, const T* x, const T* panels, const T* bias,
                         const T* relu_y, T* y, const Shape* shape, bool relu) {
    const Shape& f = *shape;
    Runs runs(f);
    Blocks<T> blocks(features_of(f));
    i64 size = f.p * f.q * f.k;
    for (i64 n = start; n < stop; n++) {
        const T* image = padded(x + n * f.h * f.w * f.c, f);
        for (i64 g = 0; g < f.groups; g++)
            for (i64 b = 0; b < blocks.count; b++) {
                i64 vector = blocks.first(b), width = blocks.width(b);
                i64 from = g * features_of(f) + vector * W<T>;
                const T* panel = panels + (g * blocks.vectors + vector) * W<T> * runs.taps();
                const T* in = image + g * depth_of(f);
                T* out = y + n * size + from;
                Finish<T> finish{bias ? bias + from : nullptr,
                                 relu_y ? relu_y + n * size + from : nullptr, relu};
                switch (blocks.first(b + 1) - vector) {
                case 1: forward_block<T, 1>(in, panel, out, f, runs, width, finish); break;
                case 2: forward_block<T, 2>(in, panel, out, f, runs, width, finish); break;
                default: forward_block<T, 3>(in, panel, out, f, runs, width, finish);
                }
            }
    }
}
INSTANTIATE(conv_forward<float>, conv_forward<double>);

// Filters in the order in which conv_forward reads them, [group][block][tap][feature], zeros
// beyond the last feature. Items: groups. turned: shape is the problem of dx, whose features
// are the channels of w (K,R,S,C/groups), and whose channels its features.
template <typename T>
EXPORT void conv_pack(i64 start, i64 stop, const T* w, T* panels, const Shape* shape,
                      bool turned) {
    const Shape& f = *shape;
    i64 depth = depth_of(f), features = features_of(f), window = f.r * f.s;
    Blocks<T> blocks(features);
    T* to = panels + start * blocks.vectors * W<T> * window * depth;
    for (i64 g = start; g < stop; g++)
        for (i64 b = 0; b < blocks.count; b++) {
            i64 from = blocks.first(b) * W<T>, lanes = blocks.first(b + 1) * W<T> - from;
            i64 width = blocks.width(b), across = turned ? 1 : window * depth;
            for (i64 t = 0; t < window; t++)
                for (i64 c = 0; c < depth; c++, to += lanes) {
                    i64 line = (g * depth + c) * window + window - 1 - t;
                    const T* taps = turned ? w + line * features + from
                                           : w + (g * features + from) * across + t * depth + c;
                    for (i64 i = 0; i < width; i++) to[i] = taps[i * across];
                    for (i64 i = width; i < lanes; i++) to[i] = 0;
                }
        }
}
INSTANTIATE(conv_pack<float>, conv_pack<double>);

// One image's share of the gradients of `rows` features by one block of a run.
template <typename T, int N>
void weights_block(const T* x, const T* dy, T* dw, const Shape& f, i64 taps, i64 rows, i64 width,
                   bool add) {
    Tile<T, N> tile;
    for (i64 p = 0; p < f.p; p++) {
        const T* at = x + p * f.stride_h * row_of(f);
        for (i64 q = 0; q < f.q; q++, at += f.stride_w * f.c, dy += MR)
            tile.add(at, [&](int m) { return dy[m]; });
    }
    for (i64 m = 0; m < rows; m++) {
        T line[N * W<T>], *out = dw + m * taps;
        tile.take(m, line);
        for (i64 i = 0; i < width; i++) out[i] = add ? out[i] + line[i] : line[i];
    }
}

// MR features of an image's dy as [pixel][MR], zeros beyond the last feature; the sums over its
// pixels are added to db, unless null.
template <typename T>
void pack_rows(const T* dy, T* rows, T* db, i64 count, const Shape& f) {
    T sums[MR] = {};
    for (i64 pixel = 0; pixel < f.p * f.q; pixel++, dy += f.k, rows += MR)
        for (int m = 0; m < MR; m++) sums[m] += rows[m] = m < count ? dy[m] : T(0);
    for (i64 m = 0; db && m < count; m++) db[m] += sums[m];
}

// dw (K,R,S,C/groups) and db (K,), or null. Items: features by ITEM, group after group; so each
// sum is made by one thread, image after image, and nothing is left to add up.
template <typename T>
EXPORT void conv_weights(i64 start, i64 stop, const T* x, const T* dy, T* dw, T* db,
                         const Shape* shape, i64 images) {
    const Shape& f = *shape;
    Runs runs(f);
    Blocks<T> blocks(runs.length);
    i64 pixels = f.p * f.q, features = features_of(f), taps = runs.taps(), stretch = pixels * MR;
    i64 tiles = ITEM / MR, high = (features + ITEM - 1) / ITEM * tiles;  // of a group
    start *= tiles, stop *= tiles;
    auto count_at = [&](i64 tile) {
        i64 left = features - tile % high * MR;
        return left < 0 ? 0 : left < MR ? left : MR;
    };
    bool beyond = runs.length % W<T>;  // the last vectors reach beyond the image
    T* rows = room<T, ROWS>((stop - start) * stretch);
    for (i64 n = 0; n < images; n++) {
        const T* image = padded(x + n * f.h * f.w * f.c, f, beyond);
        for (i64 tile = start; tile < stop; tile++) {
            i64 from = tile / high * features + tile % high * MR, count = count_at(tile);
            if (db && !n) memset(db + from, 0, count * sizeof(T));
            const T* here = dy + n * pixels * f.k + from;
            pack_rows(here, rows + (tile - start) * stretch, db ? db + from : db, count, f);
        }
        for (i64 first = start, last; first < stop; first = last) {  // of one group
            i64 g = first / high;
            last = (g + 1) * high < stop ? (g + 1) * high : stop;
            for (i64 i = 0; i < runs.count; i++)
                for (i64 b = 0; b < blocks.count; b++) {
                    i64 vector = blocks.first(b), width = blocks.width(b);
                    const T* in = image + g * depth_of(f) + runs.offset(i) + vector * W<T>;
                    for (i64 tile = first; tile < last; tile++) {
                        i64 k = g * features + tile % high * MR, count = count_at(tile);
                        T* out = dw + k * taps + i * runs.length + vector * W<T>;
                        const T* d = rows + (tile - start) * stretch;
                        switch (blocks.first(b + 1) - vector) {
                        case 1: weights_block<T, 1>(in, d, out, f, taps, count, width, n); break;
                        case 2: weights_block<T, 2>(in, d, out, f, taps, count, width, n); break;
                        default: weights_block<T, 3>(in, d, out, f, taps, count, width, n);
                        }
                    }
                }
        }
    }
}
INSTANTIATE(conv_weights<float>, conv_weights<double>);
