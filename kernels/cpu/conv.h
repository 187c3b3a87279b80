// A convolution's problem, and images as its compiled forms read them; see conv.cpp.
#pragma once

#include "tile.h"

// One image's problem, as native_form.py fills it in.
struct Shape {
    i64 h, w, c, k, r, s, stride[2], pad[2], groups, p, q;
};
inline i64 depth_of(const Shape& f) { return f.c / f.groups; }
inline i64 features_of(const Shape& f) { return f.k / f.groups; }
// Numbers of a row of a group's padded image, and of all its rows.
inline i64 row_of(const Shape& f) { return (f.w + 2 * f.pad[1]) * depth_of(f); }
inline i64 group_of(const Shape& f) { return (f.h + 2 * f.pad[0]) * row_of(f); }
// An image is copied into zeros, group by group; or it is read where it lies.
inline bool is_copied(const Shape& f) { return f.pad[0] || f.pad[1] || f.groups > 1; }

// Vectors of features in a tile at most. 4 vectors × 3 numbers fill 16 registers as 3 × 4 do; they are
// taken where features are no multiple of 3 vectors.
constexpr int ACROSS = REGISTERS == 16 ? 4 : MOST;
// Neighbouring taps that a vector of floats holds: two, of half as many features, where that leaves
// less of the vectors empty, or where the features fill but one, and loads of numbers are the bound.
template <typename T>
i64 pair_of(const Shape& f) {
    i64 halves = vectors_of<T>(2 * features_of(f));
    return sizeof(T) == 4 && f.s * depth_of(f) % 2 == 0 && (halves == 2 || halves % 2) ? 2 : 1;
}
// A group's features, each as often as there are taps in a vector.
template <typename T>
Blocks<T> blocks_of(const Shape& f) {
    i64 size = features_of(f) * pair_of<T>(f);
    return Blocks<T>(size, size % (MOST * W<T>) ? ACROSS : MOST);
}
// Calls f with constants of the block's lanes, and of the taps of a vector.
template <typename T, typename F>
void by_features(i64 wide, i64 taps, F f) {
    by_width<T, ACROSS>(wide, [&](auto lanes) {
        if constexpr (sizeof(T) == 4)
            if (taps == 2) return f(lanes, std::integral_constant<int, 2>());
        f(lanes, std::integral_constant<int, 1>());
    });
}
// The number, or the pair, that a row of a tile is multiplied with.
template <typename T, int TAPS>
auto number_at(const T* x) { return load<std::conditional_t<TAPS == 2, Pair, T>>(x); }

enum { PADDED, PLACES, DY, PARTIAL };  // uses of kept

struct Runs {
    i64 count, length, row;
    explicit Runs(const Shape& f) : count(f.r), length(f.s * depth_of(f)), row(row_of(f)) {}
    i64 offset(i64 i) const { return i * row; }
    i64 taps() const { return count * length; }
};

// Where the output pixels of `images` begin that lie so far `apart`.
inline const i64* places_of(const Shape& f, i64 images = 1, i64 apart = 0) {
    i64* places = kept<i64, PLACES>(images * f.p * f.q);
    for (i64 i = 0, *at = places; i < images; i++)
        for (i64 p = 0; p < f.p; p++)
            for (i64 q = 0; q < f.q; q++)
                *at++ = i * apart + p * f.stride[0] * row_of(f) + q * f.stride[1] * depth_of(f);
    return places;
}

// Numbers of a copied image. Behind it are some more: the weight gradient's last tile of a run is
// computed with low_of(1) pairs of taps at most where it has fewer.
inline i64 padded_size(const Shape& f) { return f.groups * group_of(f) + 2 * low_of(1); }

// Zeros for so many copied images: what lies around them stays so.
template <typename T>
T* zeros_for(i64 images, const Shape& f) {
    T* whole = kept<T, PADDED>(images * padded_size(f));
    memset(whole, 0, images * padded_size(f) * sizeof(T));
    return whole;
}

// Copies groups first … last − 1 of an image into `whole`. Piece by piece, which are often short: of 16
// numbers, or 24.
template <typename T>
void copy_groups(const T* image, const Shape& f, T* whole, i64 first, i64 last) {
    i64 depth = depth_of(f), inside = f.w * depth, piece = f.groups == 1 ? inside : depth;
    for (i64 g = first; g < last; g++)
        for (i64 h = 0; h < f.h; h++) {
            const T* from = image + h * f.w * f.c + g * depth;
            T* to = whole + g * group_of(f) + (f.pad[0] + h) * row_of(f) + f.pad[1] * depth;
            for (T* end = to + inside; to < end; from += f.c - piece)
                for (T* next = to + piece; to < next;)
                    if (next - to >= HALF<T>) {
                        store(to, load<Vec<T, HALF<T>>>(from));
                        to += HALF<T>, from += HALF<T>;
                    } else
                        *to++ = *from++;
        }
}
