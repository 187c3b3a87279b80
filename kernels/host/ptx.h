// Host twins of kernels/ptx.cuh: matrix fragments and asynchronous copies.
//
// The fragment layouts are those of the PTX ISA (sections on ldmatrix and mma). With
// g = lane / 4 and t = lane % 4, and element pairs in one register low half first:
//   ldmatrix      lane l gives the address of row l % 8 of matrix l / 8; lane l receives
//                 from each matrix elements (g, 2t) and (g, 2t+1); .trans: (2t, g), (2t+1, g)
//   m16n8k16 A    a0 (g, 2t..) a1 (g+8, 2t..) a2 (g, 2t+8..) a3 (g+8, 2t+8..)
//            B    b0 (2t.., g) b1 (2t+8.., g)
//   m16n8k8  A    a0 (g, t) a1 (g+8, t) a2 (g, t+4) a3 (g+8, t+4)
//            B    b0 (t, g) b1 (t+4, g)
//   both     C    c0 c1 (g, 2t..) c2 c3 (g+8, 2t..)
#pragma once

#include "lowp.h"
#include "warp.h"

namespace emu {

struct Mma {
    const unsigned *a, *b;
    const float* c;
    float* d;
};

// What is left of a sum on tensor cores, which cut off and do not round (Fasi et al., "Numerical
// behavior of NVIDIA tensor cores", 2021).
inline float cut(double sum) {
    float near = (float)sum;
    return fabs((double)near) > fabs(sum) ? nextafterf(near, 0.0f) : near;
}

// D = C + A·B: all K products and C are summed, and that is cut to a float.
template <int K>
void multiply_tile(const float (&a)[16][K], const float (&b)[K][8], void* const* operands) {
    for (int lane = 0; lane < 32; lane++) {
        const Mma& mine = *static_cast<const Mma*>(operands[lane]);
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = mine.c[i];
            for (int k = 0; k < K; k++) sum += (double)a[row][k] * b[k][column];
            mine.d[i] = cut(sum);
        }
    }
}

inline void mma_bf16(void* const* operands, unsigned) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Mma& mine = *static_cast<const Mma*>(operands[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++)
                a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] =
                    bf16_to_float((unsigned short)(mine.a[i] >> 16 * half));
        for (int i = 0; i < 2; i++)
            for (int half = 0; half < 2; half++)
                b[2 * t + 8 * i + half][g] =
                    bf16_to_float((unsigned short)(mine.b[i] >> 16 * half));
    }
    multiply_tile(a, b, operands);
}

// The tensor cores read the upper 19 bits of a tf32 operand.
inline void mma_tf32(void* const* operands, unsigned) {
    float a[16][8], b[8][8];
    for (int lane = 0; lane < 32; lane++) {
        const Mma& mine = *static_cast<const Mma*>(operands[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            a[g + i % 2 * 8][t + i / 2 * 4] = __uint_as_float(mine.a[i] & 0xffffe000u);
        for (int i = 0; i < 2; i++)
            b[t + 4 * i][g] = __uint_as_float(mine.b[i] & 0xffffe000u);
    }
    multiply_tile(a, b, operands);
}

struct Ldmatrix {
    const void* row;
    unsigned* registers;
};

template <bool TRANS>
void load_matrices(void* const* operands, unsigned) {
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned short element[8][8];
        for (int row = 0; row < 8; row++)
            memcpy(element[row],
                   static_cast<const Ldmatrix*>(operands[8 * matrix + row])->row, 16);
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, t = lane % 4;
            unsigned low = TRANS ? element[2 * t][g] : element[g][2 * t];
            unsigned high = TRANS ? element[2 * t + 1][g] : element[g][2 * t + 1];
            static_cast<const Ldmatrix*>(operands[lane])->registers[matrix] = low | high << 16;
        }
    }
}

inline constexpr Collective MMA_BF16{"mma_m16n8k16_bf16", mma_bf16, true};
inline constexpr Collective MMA_TF32{"mma_m16n8k8_tf32", mma_tf32, true};
inline constexpr Collective LDMATRIX_X4{"ldmatrix_x4", load_matrices<false>, true};
inline constexpr Collective LDMATRIX_X4T{"ldmatrix_x4_trans", load_matrices<true>, true};

inline void need_shared(const char* what, const void* address, Place place) {
    if (reinterpret_cast<uintptr_t>(address) % 16)
        minicnn_emu_fail(place, (std::string(what) + ": address not 16-byte aligned").c_str());
    if (!minicnn_emu_is_shared(address, 16))
        minicnn_emu_fail(place, (std::string(what) + ": 16 bytes outside the block's shared "
                                                     "memory").c_str());
}

inline void mma(const Collective& kind, Place place, float (&d)[4], const unsigned (&a)[4],
                const unsigned (&b)[2], const float (&c)[4]) {
    Mma operand{a, b, c, d};
    minicnn_emu_collective(&kind, 0xffffffffu, &operand, place);
}

template <int MATRICES>
void ldmatrix(const Collective& kind, Place place, unsigned (&registers)[MATRICES],
              const void* row) {
    // Only the first 8 lanes of each matrix give an address that is read.
    if (lane() < 8 * MATRICES) need_shared(kind.name, row, place);
    Ldmatrix operand{row, registers};
    minicnn_emu_collective(&kind, 0xffffffffu, &operand, place);
}

inline void cp_async(Place place, void* to, const void* from, int valid = 16) {
    need_shared("cp_async_16", to, place);
    if (reinterpret_cast<uintptr_t>(from) % 16 || valid < 0 || valid > 16)
        minicnn_emu_fail(place, "cp_async_16: source not 16-byte aligned, or not 0 to 16 "
                                "valid bytes");
#if defined(__SANITIZE_ADDRESS__)
    // The runtime copies; read here, so that the report names the kernel's line.
    for (int i = 0; i < valid; i++) (void)*(static_cast<const volatile char*>(from) + i);
#endif
    minicnn_emu_copy_async(to, from, 16, size_t(valid));
}

}  // namespace emu

#define mma_m16n8k16_bf16(...) emu::mma(emu::MMA_BF16, MINICNN_PLACE, __VA_ARGS__)
#define mma_m16n8k8_tf32(...) emu::mma(emu::MMA_TF32, MINICNN_PLACE, __VA_ARGS__)
#define ldmatrix_x4(...) emu::ldmatrix(emu::LDMATRIX_X4, MINICNN_PLACE, __VA_ARGS__)
#define ldmatrix_x4_trans(...) emu::ldmatrix(emu::LDMATRIX_X4T, MINICNN_PLACE, __VA_ARGS__)
#define cp_async_16(...) emu::cp_async(MINICNN_PLACE, __VA_ARGS__)

inline void cp_async_commit() { minicnn_emu_copy_commit(); }

inline int anew(int x) { return x; }
template <int GROUPS_LEFT>
void cp_async_wait() {
    minicnn_emu_copy_wait(GROUPS_LEFT);
}
