// Barriers, shuffles and votes. Each takes its caller's file and line for the messages.
#pragma once

#include <string.h>

#include "interface.h"

#define MINICNN_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(MINICNN_PLACE) {
    minicnn_emu_barrier("__syncthreads", {file, line}, 0);
}
inline int __syncthreads_count(int predicate, MINICNN_PLACE) {
    return minicnn_emu_barrier("__syncthreads_count", {file, line}, predicate);
}
inline int __syncthreads_or(int predicate, MINICNN_PLACE) {
    return minicnn_emu_barrier("__syncthreads_or", {file, line}, predicate) > 0;
}
inline int __syncthreads_and(int predicate, MINICNN_PLACE) {
    return minicnn_emu_barrier("__syncthreads_and", {file, line}, !predicate) == 0;
}

namespace emu {

inline int lane() {
    const View& v = *minicnn_emu_view;
    unsigned t = v.threadIdx.x +
                 v.blockDim.x * (v.threadIdx.y + v.blockDim.y * v.threadIdx.z);
    return int(t % 32);
}

struct Shuffle {
    unsigned long long value;
    int source;
    unsigned long long result;
};

// A lane that is not there gives NaN bits: its value is undefined on the device.
inline void shuffle(void* const* operands, unsigned present) {
    for (int lane = 0; lane < 32; lane++) {
        if (!(present >> lane & 1)) continue;
        auto& mine = *static_cast<Shuffle*>(operands[lane]);
        const void* other = operands[mine.source];
        mine.result = other ? static_cast<const Shuffle*>(other)->value : ~0ull;
    }
}

template <class T>
T exchange(const Collective& kind, unsigned mask, T value, int source, Place place) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    Shuffle operand{0, source, 0};
    memcpy(&operand.value, &value, sizeof(T));
    minicnn_emu_collective(&kind, mask, &operand, place);
    memcpy(&value, &operand.result, sizeof(T));
    return value;
}

struct Vote {
    int predicate;
    unsigned ballot;
};

inline void vote(void* const* operands, unsigned present) {
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; lane++)
        if (present >> lane & 1 && static_cast<Vote*>(operands[lane])->predicate)
            ballot |= 1u << lane;
    for (int lane = 0; lane < 32; lane++)
        if (present >> lane & 1) static_cast<Vote*>(operands[lane])->ballot = ballot;
}

inline void nothing(void* const*, unsigned) {}

inline constexpr Collective SHFL{"__shfl_sync", shuffle, false};
inline constexpr Collective SHFL_UP{"__shfl_up_sync", shuffle, false};
inline constexpr Collective SHFL_DOWN{"__shfl_down_sync", shuffle, false};
inline constexpr Collective SHFL_XOR{"__shfl_xor_sync", shuffle, false};
inline constexpr Collective BALLOT{"__ballot_sync", vote, false};
inline constexpr Collective ANY{"__any_sync", vote, false};
inline constexpr Collective ALL{"__all_sync", vote, false};
inline constexpr Collective SYNCWARP{"__syncwarp", nothing, false};

inline unsigned ballot(const Collective& kind, unsigned mask, int predicate, Place place) {
    Vote operand{predicate, 0};
    minicnn_emu_collective(&kind, mask, &operand, place);
    return operand.ballot;
}

}  // namespace emu

inline void __syncwarp(unsigned mask = 0xffffffffu, MINICNN_PLACE) {
    minicnn_emu_collective(&emu::SYNCWARP, mask, nullptr, {file, line});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MINICNN_PLACE) {
    int base = emu::lane() & ~(width - 1);
    return emu::exchange(emu::SHFL, mask, value, base | (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MINICNN_PLACE) {
    int lane = emu::lane(), from = lane - int(delta);
    if (from < (lane & ~(width - 1))) from = lane;
    return emu::exchange(emu::SHFL_UP, mask, value, from, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MINICNN_PLACE) {
    int lane = emu::lane(), from = lane + int(delta);
    if (from > (lane | (width - 1))) from = lane;
    return emu::exchange(emu::SHFL_DOWN, mask, value, from, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, MINICNN_PLACE) {
    int lane = emu::lane(), from = lane ^ lanes;
    if (from > (lane | (width - 1))) from = lane;
    return emu::exchange(emu::SHFL_XOR, mask, value, from, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, MINICNN_PLACE) {
    return emu::ballot(emu::BALLOT, mask, predicate, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, MINICNN_PLACE) {
    return emu::ballot(emu::ANY, mask, predicate, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MINICNN_PLACE) {
    return emu::ballot(emu::ALL, mask, !predicate, {file, line}) == 0;
}
