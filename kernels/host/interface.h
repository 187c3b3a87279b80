// What a kernel library and the emulator's runtime know of each other.
//
// A kernel file compiles to a library of its own; the scheduler (runtime.h) compiles once to
// another, loaded before it. They meet in the C functions declared here.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "vector_types.h"

namespace emu {

// Where the running CUDA thread is; the runtime rewrites it at each switch of threads.
struct View {
    uint3 threadIdx, blockIdx;
    dim3 blockDim, gridDim;
};

struct Place {
    const char* file;
    int line;
};

// An operation that the lanes of a warp do together. The last lane to arrive calls
// `complete` with every lane's operands, null where `present` has no bit.
struct Collective {
    const char* name;
    void (*complete)(void* const* operands, unsigned present);
    bool whole_warp;  // needs all 32 lanes, none of them returned
};

// A kernel as the launch sees it: arguments arrive as pointers to their values.
struct Entry {
    const char* name;
    void (*call)(void* const* arguments);
    int arity;
    const size_t* sizes;
};

enum Order { FORWARD, REVERSE, SHUFFLED };

struct Launch {
    const Entry* entry;
    void* const* arguments;
    unsigned grid[3], block[3];
    size_t shared;  // bytes of dynamic shared memory
    int order;
    unsigned long long seed;  // of the shuffled order
    int workers;              // operating-system threads at most
};

}  // namespace emu

extern "C" {
extern __thread emu::View* minicnn_emu_view;

// Runs the launch to its end. Returns 0, or 1 with a one-line message in `error`.
int minicnn_emu_launch(const emu::Launch* launch, char* error, size_t error_size);

// Waits for the whole block; returns how many threads came with a true predicate.
int minicnn_emu_barrier(const char* name, emu::Place place, int predicate);
void minicnn_emu_collective(
    const emu::Collective* collective, unsigned mask, void* operand, emu::Place place);

// The block's array for the declaration `key`, NaN bits when first asked for.
void* minicnn_emu_shared(const void* key, const char* name, size_t bytes, size_t align);
void* minicnn_emu_dynamic_shared();
int minicnn_emu_is_shared(const void* address, size_t bytes);

// cp.async: the copy is seen at the wait of its own thread. `valid` bytes, then zeros.
void minicnn_emu_copy_async(void* to, const void* from, size_t bytes, size_t valid);
void minicnn_emu_copy_commit();
void minicnn_emu_copy_wait(int groups_left);

[[noreturn]] void minicnn_emu_fail(emu::Place place, const char* message);
}
