// What Python calls: the rows of the table of kernels, and the launch of one of them.
#pragma once
#include <type_traits>
#include <utility>

namespace emu {

// NumPy's letter for a type of parameter; V for what has none.
template <class T> constexpr char letter = 'V';
template <> constexpr char letter<float> = 'f';
template <> constexpr char letter<double> = 'd';
template <> constexpr char letter<bool> = '?';
template <> constexpr char letter<signed char> = 'b';
template <> constexpr char letter<unsigned char> = 'B';
template <> constexpr char letter<short> = 'h';
template <> constexpr char letter<unsigned short> = 'H';
template <> constexpr char letter<int> = 'i';
template <> constexpr char letter<unsigned> = 'I';
template <> constexpr char letter<long> = 'l';
template <> constexpr char letter<unsigned long> = 'L';
template <> constexpr char letter<long long> = 'q';
template <> constexpr char letter<unsigned long long> = 'Q';

template <auto KERNEL> struct Call;
template <class... A, void (*KERNEL)(A...)> struct Call<KERNEL> {
    static constexpr char letters[] = {letter<std::remove_cv_t<std::remove_pointer_t<A>>>..., '\0'};
    static constexpr char pointers[] = {(std::is_pointer_v<A> ? '*' : '=')..., '\0'};
    template <size_t... I> static void with(const char* values, std::index_sequence<I...>) {
        KERNEL(*(const A*)(values + 8 * I)...);
    }
    static void call(const char* values) { with(values, std::index_sequence_for<A...>()); }
};

struct Kernel {
    const char *name, *letters, *pointers;
    void (*call)(const char* values);    // each value in 8 bytes
    unsigned most_threads;               // from __launch_bounds__
};
#define EMU_KERNEL(NAME, MOST_THREADS) \
    {#NAME, emu::Call<NAME>::letters, emu::Call<NAME>::pointers, emu::Call<NAME>::call, (unsigned)(MOST_THREADS)}

struct Shared { void* address; size_t size; };
static const Shared* shared;    // all of it, by variable
static unsigned shared_count;

static const Kernel* kernel;
static const char* arguments;

static void run_thread() {
    kernel->call(arguments);
    leave_block();
}

}  // namespace emu

extern "C" void emu_shared(const emu::Shared* shared, unsigned count) {
    emu::shared = shared;
    emu::shared_count = count;
}

// The grid, block after block: what went wrong, or null.
extern "C" const char* emu_launch(const emu::Kernel* kernel, const dim3* grid, const dim3* block, const char* values,
                                  bool backwards) {
    using namespace emu;
    gridDim = *grid;
    blockDim = *block;
    block_size = block->x * block->y * block->z;
    emu::kernel = kernel;
    emu::backwards = backwards;
    arguments = values;
    failed = false;
    const size_t blocks = (size_t)grid->x * grid->y * grid->z;
    for (size_t i = 0; i < blocks && !failed; ++i) {
        const size_t b = backwards ? blocks - 1 - i : i;
        blockIdx = {unsigned(b % grid->x), unsigned(b / grid->x % grid->y), unsigned(b / grid->x / grid->y)};
        for (unsigned s = 0; s < shared_count; ++s) memset(shared[s].address, 0xff, shared[s].size);
        open_barriers(block_size);
        run_block();
    }
    return failed ? message : nullptr;
}
