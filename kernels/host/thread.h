// A CUDA thread's state, a launch under way, and how messages name places.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "fiber.h"
#include "interface.h"

namespace emu {

enum class State : uint8_t { fresh, ready, at_barrier, at_collective, returned };

struct Copy {
    void* to;
    size_t bytes;
    int group;
    char data[16];
};

struct Thread {
    State state;
    uint3 index;
    Fiber* fiber;
    const char* barrier;  // the barrier it waits at, and where either wait is
    Place place;
    int predicate;
    const Collective* collective;
    unsigned mask;
    void* operand;
    std::vector<Copy> copies;  // cp.async not yet waited for
    int groups;                // cp.async groups committed
};

// A launch under way, shared by its workers.
struct Shot {
    const Launch& launch;
    long long blocks, stride, offset;  // block number i of the order is (i·stride + offset)
    std::atomic<long long> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex{};
    long long failed_block = -1;
    std::string error{};
};

inline std::string text(const char* name, Place place) {
    return std::string(name) + " (" + place.file + ":" + std::to_string(place.line) + ")";
}

inline std::string text(const uint3& at) {
    return "(" + std::to_string(at.x) + "," + std::to_string(at.y) + "," +
           std::to_string(at.z) + ")";
}

}  // namespace emu
