// Convolution's weight gradient for the cpu device, in registers.
//
// Formula   dw[k,r,s,c] = Σ_{n,p,q} dy[n,p,q,k] · x[n, p·stride−pad+r, …, c]; db[k] = Σ dy[n,p,q,k].
// Layout    Images and runs of taps as in conv.cpp. dy is copied, some images at a time, into the
//           order in which it is read, unless it lies in that order.
// Tile      Taps of one run, or pairs of them, × N vectors of features, in registers over all pixels
//           of an image, or of some small ones: a number of x, or a pair, times N vectors of dy.
// Mapping   A call takes some tiles of all images on one thread, and each sum is made by one
//           thread, image after image. So no sum depends on how they are shared out, and
//           nothing is left to add up.
#include "conv.h"

// Sums go back to memory after an image, or after up to TOGETHER that have PIXELS at most: three of 6 × 6,
// which a first cache holds.
constexpr int PIXELS = 108, TOGETHER = 8;

// Adds up the products of M taps, or pairs, and N vectors of dy over some pixels, whose taps begin at
// `places` of x: into `sums`, or to what they hold. Meanwhile the cache is asked for what lies `ahead`,
// `step` bytes a pixel. Not inlined: g++ then kept sums in memory.
template <typename T, int M, int LANES, int TAPS>
__attribute__((noinline)) void sum_pixels(const T* x, const i64* places, i64 pixels, const T* dy,
                                          T* sums, bool more, const char* ahead, i64 step) {
    Tile<T, M, LANES> tile;
    for (int m = 0; more && m < M; m++) tile.read(m, sums + m * LANES);
    for (i64 i = 0; i < pixels; i++, dy += LANES) {
        tile.add(dy, [at = x + places[i]](int m) { return number_at<T, TAPS>(at + m * TAPS); });
        __builtin_prefetch(ahead + i * step, 0, 2);
    }
    for (int m = 0; m < M; m++) tile.write(m, sums + m * LANES);
}

// `count` of k features of dy as [pixel][LANES], each TAPS times, zeros beyond the last, unless `to` is
// null; the sums over the pixels are added to db, unless null.
template <typename T, int LANES, int TAPS>
void pack_dy(const T* dy, i64 k, i64 pixels, T* to, T* db, i64 count) {
    constexpr int WIDE = LANES / TAPS, PART = HALF<T>;
    Vec<T, PART> sums[WIDE / PART] = {};
    T line[WIDE] = {};
    for (i64 pixel = 0; pixel < pixels; pixel++, dy += k) {
        const T* from = count == WIDE ? dy : line;
        if (count < WIDE) memcpy(line, dy, count * sizeof(T));
        for (int i = 0; i < WIDE / PART; i++) sums[i] += load<Vec<T, PART>>(from + i * PART);
        if (!to) continue;
        if constexpr (TAPS == 1)
            memcpy(to, from, WIDE * sizeof(T));
        else
            for (int i = 0; i < WIDE; i++) store(to + 2 * i, load<u32>(from + i) * 0x100000001ULL);
        to += LANES;
    }
    for (i64 i = 0; db && i < count; i++) db[i] += sums[i / PART][i % PART];
}

// dw (K,R,S,C/groups) and db (K,), or null. Items: `parts` equal shares of all tiles: of taps, run
// after run, block of features after block, group after group.
template <typename T>
EXPORT void conv_weights(i64 start, i64 stop, const T* x, const T* dy, T* dw, T* db,
                         const Shape* shape, i64 images, i64 parts) {
    const Shape& f = *shape;
    Runs runs(f);
    Blocks<T> blocks = blocks_of<T>(f);
    i64 pair = pair_of<T>(f);
    Cut tiles(runs.length / pair, high_of(blocks.vectors.size(0)));  // of all blocks as of the widest
    i64 window = runs.count * tiles.count, count = f.groups * blocks.count * window;
    start = start * count / parts, stop = stop * count / parts;
    if (start == stop) return;
    i64 size = f.h * f.w * f.c, pixels = f.p * f.q;
    i64 share = f.k * sizeof(T) / (stop - start);  // bytes of a pixel of dy that a tile asks for
    i64 some = std::min(images, std::clamp<i64>(PIXELS / pixels, 1, TOGETHER));
    constexpr i64 TILE = (REGISTERS - 4) * W<T>;  // numbers of the largest
    T* partial = kept<T, PARTIAL>((stop - start) * TILE);
    T* packed = kept<T, DY>(some * pixels * ACROSS * W<T>);
    // The last rows may reach beyond the image.
    bool copied = is_copied(f) || tiles.size(tiles.count - 1) < low_of(blocks.vectors.least);
    i64 apart = copied ? padded_size(f) : size;
    T* whole = copied ? zeros_for<T>(some, f) : nullptr;
    i64 of_a_group = blocks.count * window;
    const i64* places = places_of(f, some, apart);
    for (i64 n = 0, next; n < images; n = next) {
        next = std::min(n + some, images);
        for (i64 j = n; copied && j < next; j++)
            copy_groups(x + j * size, f, whole + (j - n) * apart, start / of_a_group,
                        (stop - 1) / of_a_group + 1);
        T* sums = partial;
        i64 many = (next - n) * pixels;
        const char* ahead = (const char*)(dy + std::min(next, images - 1) * pixels * f.k);
        for (i64 item = start, last; item < stop; item = last) {
            i64 block = item / window, g = block / blocks.count, b = block % blocks.count;
            i64 from = g * features_of(f) + blocks.first(b) / pair, width = blocks.width(b) / pair;
            i64 i = item % window / tiles.count, t = item % tiles.count;
            const T* image = (copied ? whole : x + n * size) + g * group_of(f);
            last = std::min(stop, (block + 1) * window);
            by_features<T>(blocks.wide(b), pair, [&](auto wide, auto taps) {
                constexpr i64 LANES = wide, TAPS = taps;
                bool as_it_lies = f.groups == 1 && f.k == LANES && TAPS == 1;
                T* bias = db && item % window == 0 ? db + from : nullptr;
                if (bias && !n) memset(bias, 0, width * sizeof(T));
                const T* in = dy + n * pixels * f.k + from;
                if (bias || !as_it_lies)
                    pack_dy<T, LANES, TAPS>(in, f.k, many, as_it_lies ? nullptr : packed, bias,
                                            width);
                if (!as_it_lies) in = packed;
                for (; item < last; item++, sums += TILE) {
                    i64 first = tiles.first(t) * TAPS, high = tiles.size(t);
                    by_height<vectors_of<T>(LANES)>(high, [&](auto rows) {
                        sum_pixels<T, rows, wide, taps>(image + runs.offset(i) + first, places,
                                                        many, in, sums, n > 0, ahead, share);
                    });
                    ahead += share * many;
                    T* out = dw + from * runs.taps() + i * runs.length + first;
                    for (i64 k = 0; next == images && k < width; k++, out += runs.taps())
                        for (i64 m = 0; m < high * TAPS; m++)
                            out[m] = sums[m / TAPS * LANES + k * TAPS + m % TAPS];
                    if (++t == tiles.count) t = 0, i++;
                }
            });
        }
    }
}
INSTANTIATE(conv_weights<float>, conv_weights<double>);
