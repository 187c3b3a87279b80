// Barriers, shuffles and votes.
#pragma once

#include <string.h>

#include "interface.h"

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

struct SyncWarp {
    Place place;
    void operator()(unsigned mask = 0xffffffffu) const {
        minicnn_emu_collective(&SYNCWARP, mask, nullptr, place);
    }
};

template <class T>
T shfl(Place place, unsigned mask, T value, int source, int width = 32) {
    int base = lane() & ~(width - 1);
    return exchange(SHFL, mask, value, base | (source & (width - 1)), place);
}
template <class T>
T shfl_up(Place place, unsigned mask, T value, unsigned delta, int width = 32) {
    int from = lane() - int(delta);
    if (from < (lane() & ~(width - 1))) from = lane();
    return exchange(SHFL_UP, mask, value, from, place);
}
template <class T>
T shfl_down(Place place, unsigned mask, T value, unsigned delta, int width = 32) {
    int from = lane() + int(delta);
    if (from > (lane() | (width - 1))) from = lane();
    return exchange(SHFL_DOWN, mask, value, from, place);
}
template <class T>
T shfl_xor(Place place, unsigned mask, T value, int lanes, int width = 32) {
    int from = lane() ^ lanes;
    if (from > (lane() | (width - 1))) from = lane();
    return exchange(SHFL_XOR, mask, value, from, place);
}

}  // namespace emu

// Macros, so that messages name the caller's file and line.
#define MINICNN_PLACE (emu::Place{__FILE__, __LINE__})
#define __syncthreads() ((void)minicnn_emu_barrier("__syncthreads", MINICNN_PLACE, 0))
#define __syncthreads_count(predicate) \
    minicnn_emu_barrier("__syncthreads_count", MINICNN_PLACE, predicate)
#define __syncthreads_or(predicate) \
    (minicnn_emu_barrier("__syncthreads_or", MINICNN_PLACE, predicate) > 0)
#define __syncthreads_and(predicate) \
    (minicnn_emu_barrier("__syncthreads_and", MINICNN_PLACE, !(predicate)) == 0)
#define __syncwarp(...) emu::SyncWarp{MINICNN_PLACE}(__VA_ARGS__)
#define __shfl_sync(...) emu::shfl(MINICNN_PLACE, __VA_ARGS__)
#define __shfl_up_sync(...) emu::shfl_up(MINICNN_PLACE, __VA_ARGS__)
#define __shfl_down_sync(...) emu::shfl_down(MINICNN_PLACE, __VA_ARGS__)
#define __shfl_xor_sync(...) emu::shfl_xor(MINICNN_PLACE, __VA_ARGS__)
#define __ballot_sync(mask, predicate) \
    emu::ballot(emu::BALLOT, mask, predicate, MINICNN_PLACE)
#define __any_sync(mask, predicate) \
    int(emu::ballot(emu::ANY, mask, predicate, MINICNN_PLACE) != 0)
#define __all_sync(mask, predicate) \
    int(emu::ballot(emu::ALL, mask, !(predicate), MINICNN_PLACE) == 0)
