// Convolution's weight gradient for the cpu device, in registers.
//
// Formula   dw[k,r,s,c] = Σ_{n,p,q} dy[n,p,q,k] · x[n, p·stride−pad+r, …, c]; db[k] = Σ dy[n,p,q,k].
// Layout    Images and runs of taps as in conv.cpp. dy is copied, some images at a time, into the
//           order in which it is read.
// Tile      Features × taps of one run, in registers over all pixels of an image, or of some small
//           ones. Either may lie along the vectors, and the other gives the rows:
//
//             taps       MR features × N vectors of x, as they lie
//             features   MR taps × N vectors of dy
//
//           `efficiency` says which way leaves fewer lanes empty, and moves sums more seldom.
// Mapping   A call takes some tiles of all images on one thread, and each sum is made by one
//           thread, image after image. So no sum depends on how they are shared out, and
//           nothing is left to add up.
#include "conv.h"

// Tiles of features for which a run's taps are first copied side by side. As they lie, pixels are
// C numbers apart: of 256 channels in addresses of so few sets of the first cache that it holds
// few of an image's lines until the next tile reads them.
constexpr int MANY = 8;

// Pixels to be summed up before sums go back to memory, which takes as long as MOVED of them: in
// images with fewer, of TOGETHER at most, one after another.
constexpr int PIXELS = 288, MOVED = 8, TOGETHER = 8;

// Numbers from a pixel's taps to the next pixel's where they are copied side by side.
template <typename T>
constexpr int SIDE = MOST * W<T>;

// Adds up the products of M rows and N vectors over some pixels: into `sums`, or to what they
// hold. dy: packed; x at a run of the first pixel. FEATURES lie along the vectors, over a whole
// image; or taps, over pixels that begin at `places`. Not inlined: g++ then kept sums in memory.
template <typename T, int M, int LANES, bool FEATURES>
__attribute__((noinline)) void sum_pixels(const T* x, const Shape& f, const i64* places,
                                          i64 pixels, const T* dy, T* sums, bool more) {
    Tile<T, M, LANES> tile;
    for (int m = 0; more && m < M; m++) tile.read(m, sums + m * LANES);
    auto add = [&](const T* at) {
        const T *vectors = FEATURES ? dy : at, *numbers = FEATURES ? at : dy;
        tile.add(vectors, [&](int m) { return numbers[m]; });
        dy += FEATURES ? LANES : M;
    };
    if (FEATURES)
        for (i64 p = 0; p < f.p; p++)
            for (i64 q = 0; q < f.q; q++) add(x + place_of(f, p, q));
    else
        for (i64 i = 0; i < pixels; i++) add(x + places[i]);
    for (int m = 0; m < M; m++) tile.write(m, sums + m * LANES);
}

// `count` features of an image's dy as [pixel][LANES], zeros beyond the last; the sums over its
// pixels are added to db, unless null.
template <typename T, int LANES>
void pack_dy(const T* dy, T* to, T* db, i64 count, const Shape& f) {
    T sums[LANES] = {};
    for (i64 pixel = 0; pixel < f.p * f.q; pixel++, dy += f.k, to += LANES)
        if (count == LANES)
            for (int i = 0; i < LANES; i++) sums[i] += to[i] = dy[i];
        else
            for (int i = 0; i < LANES; i++) sums[i] += to[i] = i < count ? dy[i] : T(0);
    for (i64 i = 0; db && i < count; i++) db[i] += sums[i];
}

// A whole problem; sums go to dw after the last image.
template <typename T>
struct Problem {
    const T *x, *dy;
    T *dw, *db;
    const Shape& f;
    i64 images;
    Runs runs{f};
    i64 features = features_of(f), pixels = f.p * f.q;
    i64 together = std::min(images, std::clamp<i64>(PIXELS / pixels, 1, TOGETHER));

    // Numbers from an image to the next, where they lie or `copied`.
    i64 apart(bool copied) const { return copied ? padded_size<T>(f) : f.h * f.w * f.c; }
    // Images n … stop − 1 as they are read, `copied` to `whole`.
    const T* read(i64 n, i64 stop, bool copied, T* whole) const {
        for (i64 i = n; copied && i < stop; i++)
            padded(x + i * apart(false), f, whole + (i - n) * apart(true), true);
        return copied ? whole : x + n * apart(false);
    }
    const T* dy_of(i64 n, i64 feature) const { return dy + n * pixels * f.k + feature; }
    T* db_of(i64 n, i64 feature, i64 count) const {
        if (db && !n) memset(db + feature, 0, count * sizeof(T));
        return db ? db + feature : nullptr;
    }
};

// Tiles of features start … stop − 1, group after group.
template <typename T>
void along_taps(const Problem<T>& of, i64 start, i64 stop) {
    const Shape& f = of.f;
    const Runs& runs = of.runs;
    Blocks<T> blocks(runs.length);
    Rows tiles(of.features);
    i64 some = of.together, stretch = some * of.pixels * HIGH;
    T* whole = kept<T, PADDED>(some * padded_size<T>(f));
    T* rows = kept<T, DY>((stop - start) * stretch);
    T* partial = kept<T, PARTIAL>((stop - start) * HIGH * runs.count * blocks.lanes);
    T* packed = kept<T, X>(some * of.pixels * SIDE<T>);
    i64 *places = kept<i64, PLACES>(some * of.pixels), *lined_up = kept<i64, X>(some * of.pixels);
    // The last vectors may reach beyond the image.
    bool copied = is_padded(f) || runs.length % PART<T>;
    for (i64 i = 0; i < some * of.pixels; i++) {
        i64 pixel = i % of.pixels;
        places[i] = i / of.pixels * of.apart(copied) + place_of(f, pixel / f.q, pixel % f.q);
        lined_up[i] = i * SIDE<T>;
    }
    auto first_of = [&](i64 tile) {
        return tile / tiles.count * of.features + tiles.first(tile % tiles.count);
    };
    auto count_of = [&](i64 tile) { return tiles.high(tile % tiles.count); };
    for (i64 n = 0, next; n < of.images && start < stop; n = next) {
        next = std::min(n + some, of.images);
        i64 pixels = (next - n) * of.pixels;
        const T* images = of.read(n, next, copied, whole);
        for (i64 tile = start; tile < stop; tile++)
            by_height(count_of(tile), [&](auto high) {
                i64 from = first_of(tile), count = count_of(tile);
                T* to = rows + (tile - start) * stretch;
                for (i64 i = n; i < next; i++, to += of.pixels * high)
                    pack_dy<T, high>(of.dy_of(i, from), to, of.db_of(i, from, count), count, f);
            });
        T* sums = partial;
        // Of tiles first … last − 1, which are of one group: one block of a run, `at` in an image.
        auto sum_block = [&](auto wide, i64 first, i64 last, i64 at, T* out, i64 width) {
            constexpr i64 LANES = wide;
            const T* x = images + at;
            const i64* where = places;
            if (last - first >= MANY) {
                for (i64 i = 0; i < pixels; i++)
                    memcpy(packed + lined_up[i], x + places[i], LANES * sizeof(T));
                x = packed, where = lined_up;
            }
            for (i64 tile = first; tile < last; tile++, sums += HIGH * LANES) {
                const T* dy = rows + (tile - start) * stretch;
                by_height(count_of(tile), [&](auto high) {
                    sum_pixels<T, high, wide, false>(x, f, where, pixels, dy, sums, n > 0);
                });
                T* line = out + first_of(tile) * runs.taps();
                for (i64 m = 0; next == of.images && m < count_of(tile); m++)
                    memcpy(line + m * runs.taps(), sums + m * LANES, width * sizeof(T));
            }
        };
        for (i64 first = start, last; first < stop; first = last) {
            i64 g = first / tiles.count;
            last = std::min((g + 1) * tiles.count, stop);
            for (i64 i = 0; i < runs.count; i++)
                for (i64 b = 0; b < blocks.count; b++)
                    by_width<T>(blocks.wide(b), [&](auto wide) {
                        i64 from = blocks.first(b);
                        sum_block(wide, first, last, g * depth_of(f) + runs.offset(i) + from,
                                  of.dw + i * runs.length + from, blocks.width(b));
                    });
        }
    }
}

// Tiles of taps start … stop − 1 of blocks of features, run after run, block after block, group
// after group.
template <typename T>
void along_features(const Problem<T>& of, i64 start, i64 stop) {
    const Shape& f = of.f;
    const Runs& runs = of.runs;
    Blocks<T> blocks(of.features);
    Rows tiles(runs.length);
    i64 taps = runs.taps(), window = runs.count * tiles.count;
    T* packed = kept<T, DY>(of.pixels * MOST * W<T>);
    T* partial = kept<T, PARTIAL>((stop - start) * HIGH * MOST * W<T>);
    T* whole = kept<T, PADDED>(padded_size<T>(f));
    // The last rows may reach beyond the image.
    bool copied = is_padded(f) || tiles.high(tiles.count - 1) < LOW;
    for (i64 n = 0; n < of.images && start < stop; n++) {
        const T* image = of.read(n, n + 1, copied, whole);
        T* sums = partial;
        for (i64 item = start; item < stop; item++) {
            i64 t = item % tiles.count, i = item % window / tiles.count, block = item / window;
            i64 g = block / blocks.count, b = block % blocks.count, width = blocks.width(b);
            i64 from = g * of.features + blocks.first(b), first = tiles.first(t);
            const T* in = image + g * depth_of(f) + runs.offset(i) + first;
            by_width<T>(blocks.wide(b), [&](auto wide) {
                constexpr i64 LANES = wide;
                bool begins = item % window == 0;
                const T* dy = of.dy_of(n, from);
                bool as_it_lies = f.groups == 1 && f.k == LANES;
                if (begins || (item == start && !as_it_lies))
                    pack_dy<T, LANES>(dy, packed, begins ? of.db_of(n, from, width) : nullptr,
                                      width, f);
                by_height(tiles.high(t), [&](auto high) {
                    sum_pixels<T, high, wide, true>(in, f, nullptr, of.pixels,
                                                    as_it_lies ? dy : packed, sums, n > 0);
                });
                T* out = of.dw + from * taps + i * runs.length + first;
                for (i64 k = 0; n == of.images - 1 && k < width; k++)
                    for (i64 m = 0; m < tiles.high(t); m++) out[k * taps + m] = sums[m * LANES + k];
                sums += HIGH * LANES;
            });
        }
    }
}

// How much of the time goes into products that count, for so many rows and numbers along the
// vectors, where sums go to memory and back after so many pixels.
template <typename T>
double efficiency(i64 rows, i64 lanes, i64 pixels) {
    Rows tiles(rows);
    double computed = std::max(rows, tiles.count * LOW) * Blocks<T>(lanes).lanes;
    return rows * lanes / computed * pixels / (pixels + MOVED);
}

// dw (K,R,S,C/groups) and db (K,), or null. Items: `parts` equal shares.
template <typename T>
EXPORT void conv_weights(i64 start, i64 stop, const T* x, const T* dy, T* dw, T* db,
                         const Shape* shape, i64 images, i64 parts) {
    Problem<T> of{x, dy, dw, db, *shape, images};
    i64 features = of.features, length = of.runs.length;
    bool taps = efficiency<T>(features, length, of.together * of.pixels) >
                efficiency<T>(length, features, of.pixels);
    i64 count = taps ? Rows(features).count
                     : Blocks<T>(features).count * of.runs.count * Rows(length).count;
    count *= shape->groups;
    (taps ? along_taps<T> : along_features<T>)(of, start * count / parts, stop * count / parts);
}
INSTANTIATE(conv_weights<float>, conv_weights<double>);
