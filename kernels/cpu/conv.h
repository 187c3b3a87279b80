// A convolution's problem, and images as its compiled forms read them; see conv.cpp.
#pragma once

#include "tile.h"

// One image's problem, as native_form.py fills it in.
struct Shape {
    i64 h, w, c, k, r, s, stride[2], pad[2], groups, p, q;
};
inline i64 depth_of(const Shape& f) { return f.c / f.groups; }
inline i64 features_of(const Shape& f) { return f.k / f.groups; }
inline i64 row_of(const Shape& f) { return (f.w + 2 * f.pad[1]) * f.c; }  // of a padded image
inline bool is_padded(const Shape& f) { return f.pad[0] || f.pad[1]; }
// Where the taps of an output pixel begin in a padded image.
inline i64 place_of(const Shape& f, i64 p, i64 q) {
    return p * f.stride[0] * row_of(f) + q * f.stride[1] * f.c;
}

enum { PADDED, DY, PARTIAL, X, PLACES };  // uses of kept

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

// Numbers that `padded` writes to, with MOST vectors behind the image.
template <typename T>
i64 padded_size(const Shape& f) {
    return (f.h + 2 * f.pad[0]) * row_of(f) + MOST * W<T>;
}

// The image within zeros, in `whole`; itself if it needs no zeros and need not be copied.
template <typename T>
const T* padded(const T* image, const Shape& f, T* whole, bool copy = false) {
    if (!is_padded(f) && !copy) return image;
    i64 edge = f.pad[1] * f.c, inside = f.w * f.c, high = f.pad[0] * row_of(f);
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
