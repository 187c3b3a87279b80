// Makes a CUDA C++ kernel file plain C++17: included before it by minicnn/compile/emulator.py, which
// also rewrites `__shared__` declarations (to emu::shared and emu::dynamic_shared, below) and
// `#pragma unroll`.
#pragma once

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <type_traits>
#include <utility>

#define MINICNN_EMULATED 1

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

// Kernels keep small arrays in registers through `#pragma unroll`; so must the host.
#define MINICNN_PRAGMA(text) _Pragma(#text)
#if defined(__SANITIZE_ADDRESS__)
#define MINICNN_UNROLL(n)
#elif defined(__clang__)
#define MINICNN_UNROLL(n) MINICNN_PRAGMA(unroll n)
#else
#define MINICNN_UNROLL(n) MINICNN_PRAGMA(GCC unroll n)
#endif

#include "interface.h"
#include "intrinsics.h"
#include "ptx.h"
#include "warp.h"

#define threadIdx (minicnn_emu_view->threadIdx)
#define blockIdx (minicnn_emu_view->blockIdx)
#define blockDim (minicnn_emu_view->blockDim)
#define gridDim (minicnn_emu_view->gridDim)
inline constexpr int warpSize = 32;

namespace emu {

template <class T>
T& shared(const void* key, const char* name, size_t align) {
    if (align < alignof(T)) align = alignof(T);
    void* array = minicnn_emu_shared(key, name, sizeof(T), align);
    return *static_cast<T*>(array);
}

template <class T>
T* dynamic_shared() {
    return static_cast<T*>(minicnn_emu_dynamic_shared());
}

template <class... P>
struct Call {
    static constexpr size_t sizes[sizeof...(P) + 1] = {sizeof(P)..., 0};

    template <void (*KERNEL)(P...), size_t... I>
    static void unpack([[maybe_unused]] void* const* arguments, std::index_sequence<I...>) {
        KERNEL(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
    }
    template <void (*KERNEL)(P...)>
    static void run(void* const* arguments) {
        unpack<KERNEL>(arguments, std::index_sequence_for<P...>{});
    }
};

template <auto KERNEL, class... P>
constexpr Entry entry_of(const char* name, void (*)(P...)) {
    return {name, Call<P...>::template run<KERNEL>, int(sizeof...(P)), Call<P...>::sizes};
}

template <auto KERNEL>
constexpr Entry entry(const char* name) {
    return entry_of<KERNEL>(name, KERNEL);
}

}  // namespace emu
