// The emulator's launch: blocks handed out to workers, one worker a core, and the functions
// that kernel libraries call. Compiled once; every kernel library links to it at load.
#pragma once

#include <stdio.h>

#include <chrono>
#include <numeric>
#include <system_error>
#include <thread>

#include "worker.h"

__thread emu::View* minicnn_emu_view = nullptr;

namespace emu {

// The worker of this operating-system thread.
inline thread_local Worker* worker = nullptr;

inline void begin_fiber() {
    Fiber* self = entering;
    arrived(self);
    self->worker->live(*self);
}

inline Fiber& Worker::idle_fiber() {
    if (idle_.empty()) {
        fibers_.push_back(std::make_unique<Fiber>());
        fibers_.back()->make(this, fibers_.size(), begin_fiber);
        idle_.push_back(fibers_.back().get());
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return *fiber;
}

// After a failure fibers are stuck inside the kernel: all start anew.
inline void Worker::renew() {
    idle_.clear();
    for (size_t i = 0; i < fibers_.size(); i++) {
        fibers_[i]->make(this, i + 1, begin_fiber);
        idle_.push_back(fibers_[i].get());
    }
}

// Keeps the message of the lowest block that failed.
inline void Worker::record(const std::string& what) {
    std::lock_guard<std::mutex> lock(shot_->mutex);
    if (shot_->failed && shot_->failed_block <= block_) return;
    shot_->failed = true;
    shot_->failed_block = block_;
    shot_->error = std::string(shot_->launch.entry->name) + ": block " +
                   text(view_.blockIdx) + ", " + what;
}

inline std::string Worker::whereabouts(const Thread& thread) const {
    if (thread.state == State::returned) return "has returned";
    if (thread.state == State::at_barrier)
        return "waits at " + text(thread.barrier, thread.place);
    char mask[32];
    snprintf(mask, sizeof mask, ", mask %08x", thread.mask);
    return "waits at " + text(thread.collective->name, thread.place) + mask;
}

// Nothing can run any more: names a thread that waits and one it waits for in vain.
inline void Worker::report_divergence() {
    const Thread *waits = nullptr, *missing = nullptr;
    for (int t = 0; t < count_ && !missing; t++) {
        const Thread& lane = threads_[t];
        if (lane.state != State::at_collective) continue;
        waits = &lane;
        for (int l = 0; l < WARP && !missing; l++) {
            int other = t / WARP * WARP + l;
            bool gone = gone_[t / WARP] >> l & 1;
            if (!(lane.mask >> l & 1) || (gone && !lane.collective->whole_warp)) continue;
            if (other >= count_) {
                return record("thread " + text(lane.index) + " " + whereabouts(lane) +
                              ", which needs a whole warp of 32 threads");
            }
            if (!together(lane, threads_[other])) missing = &threads_[other];
        }
    }
    for (int t = 0; t < count_ && !waits; t++)
        if (threads_[t].state == State::at_barrier) waits = &threads_[t];
    for (int t = 0; t < count_ && !missing; t++) {
        const Thread& other = threads_[t];
        if (other.state != State::at_barrier || !same(other.place, waits->place))
            missing = &other;
    }
    record("thread " + text(waits->index) + " " + whereabouts(*waits) + " but thread " +
           text(missing->index) + " " + whereabouts(*missing));
}

inline std::string Worker::too_much() const {
    return " bytes of dynamic shared memory: with the static arrays a block may have " +
           std::to_string(SharedMemory::LIMIT);
}

// Workers outlive launches, for the sake of their stacks.
class Workshop {
  public:
    std::unique_ptr<Worker> take() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.empty()) return std::make_unique<Worker>();
        std::unique_ptr<Worker> worker = std::move(idle_.back());
        idle_.pop_back();
        return worker;
    }
    void give_back(std::unique_ptr<Worker> worker) {
        std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(std::move(worker));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Worker>> idle_;
};

inline Workshop& workshop() {
    static Workshop* shop = new Workshop;  // never destroyed: fibers may be anywhere
    return *shop;
}

template <class More>
void work(Shot& shot, More more) {
    std::unique_ptr<Worker> mine = workshop().take();
    Worker* before = worker;
    worker = mine.get();
    worker->run(shot, more);
    worker = before;
    workshop().give_back(std::move(mine));
}

// The calling thread starts; the others join once the launch proves worth their starting.
inline void run(Shot& shot) {
    using clock = std::chrono::steady_clock;
    const auto worthwhile = clock::now() + std::chrono::microseconds(100);
    std::vector<std::thread> helpers;
    work(shot, [&] {
        if (!helpers.empty() || shot.launch.workers < 2 || clock::now() < worthwhile) return;
        long long left = shot.blocks - shot.next;
        try {
            for (int i = 1; i < shot.launch.workers && i <= left; i++)
                helpers.emplace_back([&] { work(shot, [] {}); });
        } catch (const std::system_error&) {
            // No more threads to be had here: those that run do all the work.
            if (helpers.empty()) helpers.emplace_back();
        }
    });
    for (std::thread& helper : helpers)
        if (helper.joinable()) helper.join();
}

}  // namespace emu

extern "C" {

int minicnn_emu_launch(const emu::Launch* launch, char* error, size_t error_size) {
    long long blocks = 1LL * launch->grid[0] * launch->grid[1] * launch->grid[2];
    long long stride = 1, offset = 0;
    if (launch->order == emu::REVERSE) stride = offset = blocks - 1;
    if (launch->order == emu::SHUFFLED && blocks > 1) {
        offset = launch->seed % blocks;
        stride = 1 + (launch->seed * 2654435761ull + blocks * 5 / 8) % (blocks - 1);
        while (std::gcd(stride, blocks) != 1) stride = stride % (blocks - 1) + 1;
    }
    emu::Shot shot{*launch, blocks, stride, offset};
    emu::run(shot);
    if (!shot.failed) return 0;
    snprintf(error, error_size, "%s", shot.error.c_str());
    return 1;
}

int minicnn_emu_barrier(const char* name, emu::Place place, int predicate) {
    return emu::worker->barrier(name, place, predicate);
}

void minicnn_emu_collective(
    const emu::Collective* collective, unsigned mask, void* operand, emu::Place place) {
    emu::worker->meet(*collective, mask, operand, place);
}

void* minicnn_emu_shared(const void* key, const char* name, size_t bytes, size_t align) {
    void* found = emu::worker->shared.find(key, name, bytes, align);
    if (!found)
        emu::worker->fail("the __shared__ array " + std::string(name) + " of " +
                          std::to_string(bytes) + " bytes does not fit: a block may have " +
                          std::to_string(emu::SharedMemory::LIMIT));
    return found;
}

void* minicnn_emu_dynamic_shared() {
    if (!emu::worker) {
        fprintf(stderr, "emulator: declare extern __shared__ arrays inside the kernel\n");
        abort();
    }
    return emu::worker->shared.dynamic();
}

int minicnn_emu_is_shared(const void* address, size_t bytes) {
    return emu::worker->shared.holds(address, bytes);
}

// Until the wait nobody may look at the destination: NaN bits show who does.
void minicnn_emu_copy_async(void* to, const void* from, size_t bytes, size_t valid) {
    emu::Thread& me = *emu::worker->current;
    emu::Copy copy{to, bytes, me.groups, {}};
    if (valid) memcpy(copy.data, from, valid);
    me.copies.push_back(copy);
    memset(to, 0xff, bytes);
}

void minicnn_emu_copy_commit() { emu::worker->current->groups++; }

void minicnn_emu_copy_wait(int groups_left) {
    emu::Thread& me = *emu::worker->current;
    size_t done = 0;
    for (; done < me.copies.size() && me.copies[done].group < me.groups - groups_left; done++)
        memcpy(me.copies[done].to, me.copies[done].data, me.copies[done].bytes);
    me.copies.erase(me.copies.begin(), me.copies.begin() + done);
}

void minicnn_emu_fail(emu::Place place, const char* message) {
    emu::worker->fail(std::string(message) + " (" + place.file + ":" +
                      std::to_string(place.line) + ")");
}
}
