// A fiber: a stack, and the place on it where to go on.
#pragma once

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define MINICNN_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MINICNN_ASAN 1
#endif
#endif
#ifndef MINICNN_ASAN
#define MINICNN_ASAN 0
#endif
#if MINICNN_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

class Worker;

struct Fiber {
    // AddressSanitizer's redzones widen every frame.
    static constexpr size_t STACK = MINICNN_ASAN ? 512 << 10 : 128 << 10;
    static constexpr unsigned long long CANARY = 0x6d696e69636e6e21ull;

    jmp_buf jump;
    ucontext_t context;
    Worker* worker = nullptr;
    bool born = false;
    char* memory = nullptr;
    const void* bottom = nullptr;  // of the stack, as AddressSanitizer wants to know it
    size_t size = 0;
    void* fake_stack = nullptr;

    Fiber() = default;
    Fiber(const Fiber&) = delete;
    ~Fiber() {
        if (memory) munmap(memory, STACK);
    }

    // `color` shifts the stack's top, lest all stacks fall upon the same cache sets.
    void make(Worker* owner, size_t color, void (*body)()) {
        if (!memory) {
            void* got = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (got == MAP_FAILED) {
                fprintf(stderr, "emulator: no memory for the stack of a thread\n");
                abort();
            }
            memory = static_cast<char*>(got);
        }
#if MINICNN_ASAN
        ASAN_UNPOISON_MEMORY_REGION(memory, STACK);
#endif
        *reinterpret_cast<unsigned long long*>(memory) = CANARY;
        worker = owner;
        born = false;
        bottom = memory;
        size = STACK - color % 32 * 192;
        getcontext(&context);
        context.uc_stack.ss_sp = memory;
        context.uc_stack.ss_size = size;
        context.uc_link = nullptr;
        makecontext(&context, body, 0);
    }

    bool overflowed() const {
        return memory && *reinterpret_cast<unsigned long long*>(memory) != CANARY;
    }
};

// The fiber being entered for the first time, and the one that was left last.
inline thread_local Fiber* entering = nullptr;
inline thread_local Fiber* leaving = nullptr;

// Called first thing after every switch, on the stack that was switched to.
inline void __attribute__((noinline)) arrived([[maybe_unused]] Fiber* self) {
#if MINICNN_ASAN
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &size);
    leaving->bottom = bottom;
    leaving->size = size;
#endif
}

// Saves `from`, goes on in `to`, and returns when something switches back.
inline void __attribute__((noinline)) hop(Fiber& from, Fiber& to) {
#if MINICNN_ASAN
    leaving = &from;
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
    if (_setjmp(from.jump) == 0) {
        if (to.born) _longjmp(to.jump, 1);
        to.born = true;
        entering = &to;
        setcontext(&to.context);
    }
    arrived(&from);
}

}  // namespace emu
