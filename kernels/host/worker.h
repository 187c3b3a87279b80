// The emulator's scheduler: one worker runs one block at a time, its threads as fibers.
//
// A CUDA thread is a fiber with its own stack that runs until it meets a barrier. A fiber
// whose thread returns goes on with the next thread of its warp, so a kernel without
// barriers runs through one fiber and never switches. A warp runs as far as it can before
// the next warp starts: its collectives do not wait for the block, and warps are as far
// apart as barriers allow, which is what shows a missing one. A switch is _setjmp and
// _longjmp: no system call. (Compile without _FORTIFY_SOURCE, whose longjmp check knows
// only one stack.) A fiber stays on one operating-system thread while its launch lasts.
#pragma once

#include <algorithm>

#include "shared_memory.h"
#include "thread.h"

namespace emu {

class Worker {
  public:
    static constexpr int WARP = 32;

    Worker() { main_.born = true; }  // its stack is the operating-system thread's

    // Runs blocks until none is left; `more` is called after each.
    template <class More>
    void run(Shot& shot, More more) {
        shot_ = &shot;
        prepare();
        minicnn_emu_view = &view_;
        for (long long i; !shot.failed && (i = shot.next++) < shot.blocks;) {
            run_block((i * shot.stride + shot.offset) % shot.blocks);
            more();
        }
        shared.unpoison_all();
        for (auto& fiber : fibers_)
            if (fiber->overflowed()) record("a thread's stack overflowed");
    }

    int barrier(const char* name, Place place, int predicate) {
        Thread& me = *current;
        me.barrier = name;
        me.place = place;
        me.predicate = predicate;
        me.state = State::at_barrier;
        suspend();
        return votes_;
    }

    void meet(const Collective& collective, unsigned mask, void* operand, Place place) {
        Thread& me = *current;
        int lane = number(me) % WARP;
        if (!(mask >> lane & 1))
            fail(text(collective.name, place) + ": its mask has no bit for the calling lane");
        me.collective = &collective;
        me.mask = mask;
        me.operand = operand;
        me.place = place;
        me.state = State::at_collective;
        waiting_++;
        if (complete(me))
            me.state = State::ready;  // the last lane goes straight on
        else
            suspend();
    }

    [[noreturn]] void fail(const std::string& what) {
        record("thread " + text(current->index) + ": " + what);
        hop(*current->fiber, main_);
        abort();  // never: the block is given up
    }

    // What every fiber does for ever: run threads until another fiber is due.
    [[noreturn]] void live(Fiber& self) {
        for (;;) {
            current->fiber = &self;
            shot_->launch.entry->call(shot_->launch.arguments);
            Thread* next = finish();
            if (next && next->state == State::fresh) {
                enter(*next);
                continue;
            }
            idle_.push_back(&self);
            if (next) enter(*next);
            hop(self, next ? *next->fiber : main_);
        }
    }

    Thread* current = nullptr;
    SharedMemory shared;

  private:
    int number(const Thread& thread) const { return int(&thread - threads_.data()); }

    void prepare() {
        const Launch& launch = shot_->launch;
        view_.blockDim = {launch.block[0], launch.block[1], launch.block[2]};
        view_.gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
        count_ = int(launch.block[0] * launch.block[1] * launch.block[2]);
        if (threads_.size() < size_t(count_)) threads_.resize(count_);
        for (int t = 0; t < count_; t++) {
            unsigned x = launch.block[0], y = launch.block[1], u = t;
            threads_[t].index = {u % x, u / x % y, u / x / y};
        }
    }

    void run_block(long long block) {
        const Launch& launch = shot_->launch;
        unsigned long long x = launch.grid[0], y = launch.grid[1], b = block;
        view_.blockIdx = {unsigned(b % x), unsigned(b / x % y), unsigned(b / x / y)};
        block_ = block;
        random_ = launch.seed * 0x9e3779b97f4a7c15ull + block;
        for (int t = 0; t < count_; t++) {
            threads_[t].state = State::fresh;
            threads_[t].copies.clear();
            threads_[t].groups = 0;
        }
        returned_ = waiting_ = 0;
        gone_.assign((count_ + WARP - 1) / WARP, 0);
        if (count_ % WARP) gone_.back() = ~0u << count_ % WARP;  // lanes that never were
        arrange();
        if (!shared.reset(launch.shared)) {
            current = &threads_[0];
            record("asks for " + std::to_string(launch.shared) + too_much());
            return;
        }
        Thread& first = *pick();
        Fiber& fiber = idle_fiber();
        enter(first);
        hop(main_, fiber);
        if (const char* name = shared.overrun())
            record("something wrote past the end of the __shared__ array " +
                   std::string(name));
        if (shot_->failed) renew();
    }

    // Puts the threads in the order of the launch, warp by warp.
    void arrange() {
        int warps = (count_ + WARP - 1) / WARP;
        sequence_.resize(count_);
        segments_.resize(warps);
        for (int w = 0; w < warps; w++) segments_[w] = w;
        for (int t = 0; t < count_; t++) sequence_[t] = t;
        int order = shot_->launch.order;
        if (order == SHUFFLED) shuffle(segments_.data(), warps);
        if (order == REVERSE) std::reverse(segments_.begin(), segments_.end());
        for (int w = 0; w < warps; w++) {
            int begin = w * WARP, end = std::min(begin + WARP, count_);
            if (order == SHUFFLED) shuffle(&sequence_[begin], end - begin);
            if (order == REVERSE) std::reverse(&sequence_[begin], &sequence_[0] + end);
        }
        segment_ = 0;
        cursor_ = segments_[0] * WARP;
        again_ = false;
    }

    void shuffle(int* values, int count) {
        for (int i = count - 1; i > 0; i--) {
            random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;
            std::swap(values[i], values[(random_ >> 33) % (i + 1)]);
        }
    }

    // The next thread that can run; null when the block is finished or has failed.
    Thread* pick() {
        for (;;) {
            int begin = segments_[segment_] * WARP, end = std::min(begin + WARP, count_);
            while (cursor_ < end) {
                Thread& thread = threads_[sequence_[cursor_++]];
                if (thread.state <= State::ready) return &thread;
            }
            if (again_) {  // a collective set lanes of this warp free
                again_ = false;
                cursor_ = begin;
                continue;
            }
            if (++segment_ == segments_.size()) {
                if (returned_ == count_ || !release()) return nullptr;
                if (shot_->launch.order == SHUFFLED) arrange();
                segment_ = 0;
            }
            cursor_ = segments_[segment_] * WARP;
            waiting_ = 0;
        }
    }

    // Opens the block's barrier if every thread stands at the same one.
    bool release() {
        const Thread& first = threads_[0];
        int votes = 0;
        for (int t = 0; t < count_; t++) {
            Thread& thread = threads_[t];
            if (thread.state != State::at_barrier || !same(thread.place, first.place)) {
                report_divergence();
                return false;
            }
            votes += thread.predicate != 0;
        }
        for (int t = 0; t < count_; t++) threads_[t].state = State::ready;
        votes_ = votes;
        return true;
    }

    // Runs the collective that `thread` waits at, if all the lanes it needs are there.
    bool complete(Thread& thread) {
        int warp = number(thread) / WARP, begin = warp * WARP;
        unsigned present = thread.mask & ~gone_[warp];
        if (waiting_ < __builtin_popcount(present)) return false;
        if (thread.collective->whole_warp && present != thread.mask) return false;
        void* operands[WARP] = {};
        for (int lane = 0; lane < WARP; lane++) {
            if (!(present >> lane & 1)) continue;
            if (!together(thread, threads_[begin + lane])) return false;
            operands[lane] = threads_[begin + lane].operand;
        }
        thread.collective->complete(operands, present);
        for (int lane = 0; lane < WARP; lane++)
            if (present >> lane & 1) {
                threads_[begin + lane].state = State::ready;
                waiting_--;
            }
        again_ = true;
        return true;
    }

    static bool same(const Place& a, const Place& b) {
        return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
    }

    static bool together(const Thread& a, const Thread& b) {
        return b.state == State::at_collective && b.collective == a.collective &&
               b.mask == a.mask && same(a.place, b.place);
    }

    // The running thread has returned: collectives may have waited for no one else.
    Thread* finish() {
        current->state = State::returned;
        returned_++;
        int warp = number(*current) / WARP, begin = warp * WARP;
        gone_[warp] |= 1u << (number(*current) - begin);
        for (int t = begin; waiting_ > 0 && t < std::min(begin + WARP, count_); t++)
            if (threads_[t].state == State::at_collective) complete(threads_[t]);
        return pick();
    }

    // The running thread waits; returns when it may go on.
    void suspend() {
        Fiber& self = *current->fiber;
        Thread* next = pick();
        if (next && next->fiber == &self && next->state == State::ready) {
            enter(*next);
            return;
        }
        if (!next) hop(self, main_);
        Fiber& fiber = next->state == State::fresh ? idle_fiber() : *next->fiber;
        enter(*next);
        hop(self, fiber);
    }

    void enter(Thread& thread) {
        thread.state = State::ready;
        current = &thread;
        view_.threadIdx = thread.index;
    }

    Fiber& idle_fiber();
    void renew();
    void record(const std::string& what);
    void report_divergence();
    std::string whereabouts(const Thread& thread) const;
    std::string too_much() const;

    Shot* shot_ = nullptr;
    View view_;
    long long block_ = 0;
    std::vector<Thread> threads_;
    int count_ = 0, returned_ = 0, votes_ = 0;
    std::vector<unsigned> gone_;   // each warp's lanes that have returned
    int waiting_ = 0;              // lanes of the running warp at a collective
    bool again_ = false;           // look through the running warp once more
    std::vector<int> sequence_;    // threads in order, each warp's at its own place
    std::vector<int> segments_;    // warps in order
    size_t segment_ = 0;           // the running warp's place in it, and the next thread's
    int cursor_ = 0;
    unsigned long long random_ = 0;
    Fiber main_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Fiber*> idle_;
};

}  // namespace emu
