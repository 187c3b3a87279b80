// Fully connected layers on the cpu device: products of tall weights with a batch of images.
//
// Formula   y[n,k] = b[k] + Σ_d x[n,d] · w[k,d], then max(·, 0) if asked for;
//           dx[n,d] = Σ_k dy[n,k] · w[k,d], 0 where relu_y, if given, is not positive;
//           dw[k,d] = Σ_n dy[n,k] · x[n,d]; db[k] = Σ_n dy[n,k].
// Layout    x, dx (N,D); y, dy (N,K); w, dw (K,D).
// Why       A batch is a few dozen images, the weights are hundreds of megabytes: what counts is
//           that each is read or written once, as it lies. A library's product first copies them
//           into an order of its own. Here it is the images that are copied, into panels.
// Tile      forward   SUMS / N features × N vectors of images, LONG numbers at a time: a number
//                     of w, broadcast, times images side by side.
//           backward  MR images × N vectors of dx, DEEP features at a time, so that what is read
//                     of w stays in the caches while all images pass.
//           weights   MR features × N vectors of dw, over all images.
#include "tile.h"

enum { Y, DY };  // uses of kept

constexpr int SUMS = MR * MOST;
constexpr int ITEM = 24;  // features of an item
static_assert(ITEM % SUMS == 0 && ITEM % MR == 0, "an item is some tiles");

// x turned round for product_forward: [block of images][d][image], zeros beyond the last. Items:
// numbers of d by TURNED.
constexpr int TURNED = 16;
template <typename T>
EXPORT void product_turn(i64 start, i64 stop, const T* x, T* panels, i64 images, i64 d) {
    Blocks<T> blocks(images);
    for (i64 i = start * TURNED, last; i < stop * TURNED && i < d; i = last)
        for (i64 b = last = 0; b < blocks.count; b++) {
            last = std::min(i + TURNED, d);
            i64 from = blocks.first(b), lanes = blocks.wide(b);
            T* to = panels + from * d;
            for (i64 n = 0; n < lanes; n++)
                for (i64 j = i; j < last; j++)
                    to[j * lanes + n] = from + n < images ? x[(from + n) * d + j] : T(0);
        }
}
INSTANTIATE(product_turn<float>, product_turn<double>);

// Adds numbers first … last − 1 of M features (beyond `left`: the last again) to their sums.
template <typename T, int M, int LANES>
void add_features(const T* w, const T* panel, T* sums, i64 left, i64 d, i64 first, i64 last) {
    Tile<T, M, LANES> tile;
    const T* rows[M];
    for (int m = 0; m < M; m++) rows[m] = w + (m < left ? m : left - 1) * d;
    for (int m = 0; first && m < M; m++) tile.read(m, sums + m * LANES);
    for (i64 i = first; i < last; i++)
        tile.add(panel + i * LANES, [&](int m) { return rows[m][i]; });
    for (int m = 0; m < M; m++) tile.write(m, sums + m * LANES);
}

// Items: features by ITEM. panels: of product_turn.
constexpr int LONG = 2048;
template <typename T>
EXPORT void product_forward(i64 start, i64 stop, const T* panels, const T* w, const T* b, T* y,
                            i64 images, i64 features, i64 d, bool relu) {
    Blocks<T> blocks(images);
    T* held = kept<T, Y>(ITEM * blocks.lanes);
    for (i64 k = start * ITEM; k < stop * ITEM && k < features; k += ITEM) {
        i64 count = std::min<i64>(ITEM, features - k);
        for (i64 first = 0; first < d; first += LONG)
            for (i64 block = 0; block < blocks.count; block++)
                by_width<T>(blocks.wide(block), [&](auto wide) {
                    constexpr int M = SUMS * W<T> / wide;
                    i64 from = blocks.first(block);
                    for (i64 t = 0; t < count; t += M)
                        add_features<T, M, wide>(w + (k + t) * d, panels + from * d,
                                                 held + from * ITEM + t * wide, count - t, d,
                                                 first, std::min<i64>(first + LONG, d));
                });
        for (i64 block = 0; block < blocks.count; block++) {
            i64 from = blocks.first(block), lanes = blocks.wide(block);
            for (i64 n = 0; n < blocks.width(block); n++)
                for (i64 c = 0; c < count; c++) {
                    T sum = held[from * ITEM + c * lanes + n] + (b ? b[k + c] : T(0));
                    y[(from + n) * features + k + c] = relu && sum < 0 ? T(0) : sum;  // NaN stays
                }
        }
    }
}
INSTANTIATE(product_forward<float>, product_forward<double>);

// sums of M images (beyond `left`: the last again) += Σ over `deep` features; N vectors.
template <typename T, int M, int LANES>
void add_images(const T* dy, const T* panel, T* sums, i64 left, i64 deep, i64 features) {
    Tile<T, M, LANES> tile;
    const T* rows[M];
    for (int m = 0; m < M; m++) rows[m] = dy + (m < left ? m : left - 1) * features;
    for (int m = 0; m < M; m++) tile.read(m, sums + m * LANES);
    for (i64 k = 0; k < deep; k++) tile.add(panel + k * LANES, [&](int m) { return rows[m][k]; });
    for (int m = 0; m < M; m++) tile.write(m, sums + m * LANES);
}

// Items: numbers of d by `stretch`, the width in which rows of w are read. They are copied side
// by side: as they lie, hundreds of lines of one address but for their upper bits, a cache could
// not hold them while all images pass. Each row's stretch is too short for the processor to guess
// the next: while images pass, the rows that follow are asked for, some before each tile, since a
// core awaits but two dozen lines at a time.
constexpr int DEEP = 64;
template <typename T>
EXPORT void product_backward(i64 start, i64 stop, const T* dy, const T* w, const T* relu_y, T* dx,
                             i64 images, i64 features, i64 d, i64 stretch) {
    i64 rows = (images + MR - 1) / MR * MR;
    for (i64 from = start * stretch; from < stop * stretch && from < d; from += stretch) {
        Blocks<T> blocks(std::min(stretch, d - from));
        i64 across = blocks.lanes;
        T *held = kept<T, Y>(rows * across), *panels = kept<T, DY>(DEEP * across);
        memset(held, 0, rows * across * sizeof(T));
        for (i64 k = 0; k < features; k += DEEP) {
            i64 deep = std::min<i64>(DEEP, features - k);
            for (i64 j = 0; j < deep; j++)
                for (i64 b = 0; b < blocks.count; b++) {
                    i64 first = blocks.first(b), lanes = blocks.wide(b);
                    T* to = panels + first * DEEP + j * lanes;
                    const T* line = w + (k + j) * d + from + first;
                    i64 width = blocks.width(b);
                    if (width == MOST * W<T>)
                        memcpy(to, line, MOST * W<T> * sizeof(T));
                    else
                        for (i64 i = 0; i < lanes; i++) to[i] = i < width ? line[i] : T(0);
                }
            for (i64 b = 0; b < blocks.count; b++)
                by_width<T>(blocks.wide(b), [&](auto wide) {
                    i64 first = blocks.first(b);
                    T* sums = held + first * rows;
                    i64 next = k + DEEP, rest = std::min<i64>(DEEP, features - next);
                    for (i64 n = 0; n < images; n += MR, sums += MR * wide) {
                        for (; (next - k - DEEP) * rows < rest * (n + MR); next++)
                            for (i64 i = first; i < first + wide; i += LINE / sizeof(T))
                                __builtin_prefetch(w + next * d + from + i, 0, 2);
                        add_images<T, MR, wide>(dy + n * features + k, panels + first * DEEP, sums,
                                                images - n, deep, features);
                    }
                });
        }
        for (i64 n = 0; n < images; n++)
            for (i64 b = 0; b < blocks.count; b++) {
                i64 first = blocks.first(b), lanes = blocks.wide(b);
                i64 at = n * d + from + first;
                const T* sums = held + first * rows + n * lanes;
                for (i64 i = 0; i < blocks.width(b); i++)
                    dx[at + i] = !relu_y || relu_y[at + i] > 0 ? sums[i] : T(0);
            }
    }
}
INSTANTIATE(product_backward<float>, product_backward<double>);

// x cut up for product_weights: [block of numbers][image][number], zeros beyond the last. Items:
// images.
template <typename T>
EXPORT void product_cut(i64 start, i64 stop, const T* x, T* panels, i64 images, i64 d) {
    Blocks<T> blocks(d);
    for (i64 n = start; n < stop; n++)
        for (i64 b = 0; b < blocks.count; b++) {
            i64 from = blocks.first(b), lanes = blocks.wide(b);
            T* to = panels + from * images + n * lanes;
            for (i64 i = 0; i < lanes; i++) to[i] = from + i < d ? x[n * d + from + i] : T(0);
        }
}
INSTANTIATE(product_cut<float>, product_cut<double>);

// Items: features by ITEM. panels: of product_cut.
template <typename T>
EXPORT void product_weights(i64 start, i64 stop, const T* panels, const T* dy, T* dw, T* db,
                            i64 images, i64 features, i64 d) {
    Blocks<T> blocks(d);
    T* rows = kept<T, DY>(images * MR);
    for (i64 k = start * ITEM; k < stop * ITEM && k < features; k += MR) {
        i64 count = std::min<i64>(MR, features - k);
        T sums[MR] = {};
        for (i64 n = 0; n < images; n++)
            for (int m = 0; m < MR; m++)
                sums[m] += rows[n * MR + m] = m < count ? dy[n * features + k + m] : T(0);
        if (db) memcpy(db + k, sums, count * sizeof(T));
        for (i64 b = 0; b < blocks.count; b++)
            by_width<T>(blocks.wide(b), [&](auto wide) {
                i64 from = blocks.first(b), lanes = wide;
                Tile<T, MR, wide> tile;
                for (i64 n = 0; n < images; n++)
                    tile.add(panels + from * images + n * lanes,
                             [&](int m) { return rows[n * MR + m]; });
                i64 width = blocks.width(b);
                for (int m = 0; m < MR && m < count; m++) {
                    T line[wide], *out = dw + (k + m) * d + from;
                    tile.write(m, width == lanes ? out : line);
                    if (width < lanes) memcpy(out, line, width * sizeof(T));
                }
            });
    }
}
INSTANTIATE(product_weights<float>, product_weights<double>);
