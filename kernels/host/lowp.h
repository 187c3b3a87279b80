// bfloat16 and half: conversions with round-to-nearest-even, NaN kept, as the device's cvt.
#pragma once

#include <stdint.h>
#include <string.h>

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline unsigned short bf16_from_float(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // the device's one NaN
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float bf16_to_float(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

inline unsigned short f16_from_float(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000u) return 0x7fff;
    if (rest >= 0x477ff000u) return (unsigned short)(sign | 0x7c00);  // 65520 and up: infinity
    if (rest < 0x38800000u) {
        // Subnormal in half: adding 0.5 puts its last bit (2^-24) at the float's last bit,
        // so that the float addition itself rounds.
        unsigned rounded = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000u;
        return (unsigned short)(sign | rounded);
    }
    unsigned rounded = rest + 0xfff + (rest >> 13 & 1);
    return (unsigned short)(sign | ((rounded >> 13) - (112u << 10)));
}

inline float f16_to_float(unsigned short bits) {
    unsigned sign = (unsigned)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
    if (rest < 0x400) {
        float value = (float)rest * 0x1p-24f;
        return __uint_as_float(sign | __float_as_uint(value));
    }
    return __uint_as_float(sign | ((rest << 13) + (112u << 23)));
}

// Two bfloat16 in one register, the first in the low half.
inline unsigned bf16x2_from_floats(float low, float high) {
    return bf16_from_float(low) | (unsigned)bf16_from_float(high) << 16;
}

// The value tensor cores see of a tf32 operand made by cvt.rna: 10 mantissa bits, ties away.
inline unsigned tf32_from_float(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffff;
    return (bits + 0x1000) & 0xffffe000u;
}
