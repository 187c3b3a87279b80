// The shared memory of the block a worker runs: arrays between guards, NaN bits at first.
#pragma once

#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

namespace emu {

class SharedMemory {
  public:
    // What a block may have on sm_90 and sm_100 (sm_80: 163 KiB).
    static constexpr size_t LIMIT = 227 << 10;

    // A new block: nothing allocated but its dynamic shared memory.
    bool reset(size_t dynamic_bytes) {
        if (!memory_) memory_.reset(new (std::align_val_t(ALIGN)) char[CAPACITY]);
        arrays_.clear();
        used_ = total_ = 0;
        poison(memory_.get(), CAPACITY);
        return allocate(nullptr, "dynamic shared memory", dynamic_bytes, ALIGN) != nullptr;
    }

    // The array of the declaration `key`; null when it does not fit.
    void* find(const void* key, const char* name, size_t bytes, size_t align) {
        for (const Array& array : arrays_)
            if (array.key == key) return array.start;
        return allocate(key, name, bytes, align);
    }

    void* dynamic() const { return arrays_[0].start; }

    bool holds(const void* address, size_t bytes) const {
        auto at = static_cast<const char*>(address);
        for (const Array& array : arrays_)
            if (at >= array.start && at + bytes <= array.start + array.bytes) return true;
        return false;
    }

    // The name of an array whose guard was written to, or null.
    const char* overrun() {
        for (const Array& array : arrays_) {
            size_t size = GUARD;
            unpoison(array.start + array.bytes, size);
            for (size_t i = 0; i < size; i++)
                if (array.start[array.bytes + i] != GUARD_BYTE) return array.name;
        }
        return nullptr;
    }

    void unpoison_all() { unpoison(memory_.get(), CAPACITY); }

    ~SharedMemory() {
        if (memory_) unpoison_all();
    }

  private:
    static constexpr size_t ALIGN = 128, GUARD = 64, CAPACITY = LIMIT + (64 << 10);
    static constexpr char GUARD_BYTE = 0x5a;

    struct Array {
        const void* key;
        const char* name;
        char* start;
        size_t bytes;
    };
    struct Deleter {
        void operator()(char* p) const { operator delete[](p, std::align_val_t(ALIGN)); }
    };

    void* allocate(const void* key, const char* name, size_t bytes, size_t align) {
        // Guards sit on both sides: the one before an array is the one after the last.
        size_t start = (used_ + align - 1) / align * align;
        total_ = (total_ + align - 1) / align * align + bytes;
        if (total_ > LIMIT || start + bytes + GUARD > CAPACITY) return nullptr;
        char* at = memory_.get() + start;
        unpoison(at, bytes + GUARD);
        memset(at, 0xff, bytes);
        memset(at + bytes, GUARD_BYTE, GUARD);
        poison(at + bytes, GUARD);
        used_ = start + bytes + GUARD;
        arrays_.push_back({key, name, at, bytes});
        return at;
    }

    static void poison([[maybe_unused]] char* at, [[maybe_unused]] size_t bytes) {
#if MINICNN_ASAN
        ASAN_POISON_MEMORY_REGION(at, bytes);
#endif
    }
    static void unpoison([[maybe_unused]] char* at, [[maybe_unused]] size_t bytes) {
#if MINICNN_ASAN
        ASAN_UNPOISON_MEMORY_REGION(at, bytes);
#endif
    }

    std::unique_ptr<char[], Deleter> memory_;
    std::vector<Array> arrays_;
    size_t used_ = 0, total_ = 0;
};

}  // namespace emu
