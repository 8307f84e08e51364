// One round of a tree search through the world model, on a processor: two token passes, heads, scalars
// and priors of all rows in one call.
//
// It computes what search_steps.expand and lzero.mcts.search.LogitsModel compute in some hundred small
// tensor operations. A round has few rows (one per root, or one per root and action still considered),
// so these operations cost more to start than to run, and matrix products of few rows are bound by how
// the weights come out of memory. Here weights lie in panels, packed once per update: 2 vectors of
// outputs, for one input after the other, in the order in which they are read.
//
// Threads run the same code side by side. In a matrix product they share the outputs, so that each
// reads its part of the weights, once, for all rows; in everything else they share the rows; they meet
// before and after each product. Rows never mix: whatever is computed for a row is computed in one
// order, however the work is cut. So results do not depend on the number of threads, bit for bit.
//
// Shape legend: R = rows of the round, D = model width, H = heads, K = D / H, F = hidden width of a
// feed-forward or expert, E = experts, T = tasks, A = actions, B = support bins, N = roots, S = slots
// of a root, W = places of a window (register tokens and 2C context tokens), M = simulations.
//
// The structs are mirrored in lzero/model/native_search.py, field by field.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 8;  // 16 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int LANES = 4, TILE = 8;  // 16 of 32
#else
constexpr int LANES = 4, TILE = 6;  // 12 of 16
#endif
constexpr int PANEL = 2 * LANES;
constexpr float EPSILON = 1e-5f;  // of every layer norm, as in torch

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

extern "C" {

// Linear maps of one shape, one for each set (task or expert): panels (sets, out / PANEL, in, PANEL) and
// bias (sets, out), with out rounded up to whole panels.
struct Linear {
  const float *panels, *bias;
  int64_t in, out;
};

// Scale and shift (sets, D).
struct Norm { const float *scale, *shift; };

// Feed-forwards: dense with GELU has num_shared = num_experts = 0 and uses w_in, w_out; a mixture has its
// shared experts there, one a set, and its routed experts in expert_in, expert_out; dense with SwiGLU is a
// mixture of one shared expert.
struct Block {
  Norm norm1, norm2;
  Linear qkv, attention_out, w_in, w_out, expert_in, expert_out, router;
  const float* selection_bias;     // (E,)
  const int64_t* experts_of_task;  // (T, top_k); null where a router chooses
  int64_t num_shared, num_experts, top_k, renormalise;
};

struct Head {
  Norm norm1, norm2;
  Linear linear1, linear2;
  int64_t shared;  // one set for all tasks
};

struct Model {
  const Block* blocks;
  Norm norm;
  Head policy, value, reward, latent;
  Linear join_task;               // (2D -> D); panels null where tasks are not concatenated
  const float* rotation;          // (positions, K / 2, 2): cosine and sine
  const float* action_embedding;  // (A, D)
  const float* task_embedding;    // (T, D) or null
  int64_t num_layers, dim, num_heads, num_actions, num_bins, sim_norm_group;  // group 0: layer norm
  float support_low, support_high, linear_term;  // of the bins; of the scalar transform
};

// What a search remembers: see SearchCache.
struct Cache {
  float* const* slabs;   // per layer (N, S, 2, D)
  int64_t* window;       // (N, M + 1, W): rows of (N * S), -1 where there is none
  int64_t* position;     // (N, M + 1)
  const int64_t* task;   // (N,)
  const uint8_t* legal;  // (N, A)
  float* latent;         // (N, M + 1, D), where the next latent is predicted as a change; else null
  int64_t slots, columns, places, registers, root_tokens;
};

struct Round {
  const int64_t *root, *parent, *action, *node;  // (R,)
  float *reward, *value, *survival;              // (R,)
  float* prior;                                  // (R, A)
  float* scratch;                                // (R, scratch_width)
  int64_t rows;
};
}

namespace {

int64_t padded(int64_t out) { return (out + PANEL - 1) / PANEL * PANEL; }

// Rows of numbers that lie `stride` apart.
struct Rows {
  float* data;
  int64_t stride;
  float* operator[](int64_t row) const { return data + row * stride; }
};

// ---- Threads ----------------------------------------------------------------------------------------

// The threads of one call.
class Team {
 public:
  // From here on there are `size` threads; those that were started earlier have waited.
  void open(int64_t size) { size_.store(size, std::memory_order_release); }
  void wait_for_opening() const { wait_while(size_, 0); }
  int64_t size() const { return size_.load(std::memory_order_relaxed); }

  // Returns when all have called it; what any of them wrote before is then seen by all.
  void meet() {
    const int64_t meeting = meeting_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size()) return wait_while(meeting_, meeting);
    arrived_.store(0, std::memory_order_relaxed);
    meeting_.store(meeting + 1, std::memory_order_release);
  }

 private:
  std::atomic<int64_t> size_{0}, arrived_{0}, meeting_{0};

  static void wait_while(const std::atomic<int64_t>& number, int64_t value) {
    for (int64_t turn = 0; number.load(std::memory_order_acquire) == value; ++turn) {
      if (turn > 2000) std::this_thread::yield();  // some 50 us: others may need this core to get there
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }
};

// One of a team's threads. Its share of 0 … count - 1 goes from first(count) up to last(count), without it.
struct Member {
  Team& team;
  int64_t number;

  int64_t first(int64_t count) const { return number * count / team.size(); }
  int64_t last(int64_t count) const { return (number + 1) * count / team.size(); }
};

// ---- Functions of single numbers; loops over them become vector code --------------------------------

inline float exponential(float x) {  // relative error 2e-7
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float y = x * 1.44269504f;
  const int32_t n = int32_t(y + (y < 0 ? -0.5f : 0.5f));
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.0f / 5040;  // Taylor series: |r| is below 0.35, where the next term is 1e-8
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t bits = uint32_t(n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float gelu(float x) {  // by tanh(u) = 2 sigmoid(2u) - 1
  return x * sigmoid(2 * 0.7978845608f * (x + 0.044715f * x * x * x));
}

// ---- Functions of rows ------------------------------------------------------------------------------

// Sum of term(0) … term(width - 1), as many at a time as a vector holds.
template <typename Term>
inline float total(int64_t width, Term term) {
  float part[LANES] = {}, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    for (int lane = 0; lane < LANES; ++lane) part[lane] += term(i + lane);
  }
  for (; i < width; ++i) sum += term(i);
  for (int lane = 0; lane < LANES; ++lane) sum += part[lane];
  return sum;
}

void normalise(const float* x, float* y, int64_t width) {
  const float mean = total(width, [=](int64_t i) { return x[i]; }) / width;
  const float squares = total(width, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const float scale = 1.0f / std::sqrt(squares / width + EPSILON);
  for (int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * scale;
}

void layer_norm(const Norm& norm, int64_t set, const float* x, float* y, int64_t width) {
  const float *scale = norm.scale + set * width, *shift = norm.shift + set * width;
  normalise(x, y, width);
  for (int64_t i = 0; i < width; ++i) y[i] = y[i] * scale[i] + shift[i];
}

void softmax(float* x, int64_t width) {
  const float highest = *std::max_element(x, x + width);
  for (int64_t i = 0; i < width; ++i) x[i] = exponential(x[i] - highest);
  const float sum = total(width, [=](int64_t i) { return x[i]; });
  for (int64_t i = 0; i < width; ++i) x[i] /= sum;
}

void rotate(float* x, const float* rotation, int64_t width) {  // pairs as complex numbers
  for (int64_t i = 0; i < width; i += 2) {
    const float re = x[i], im = x[i + 1], c = rotation[i], s = rotation[i + 1];
    x[i] = re * c - im * s;
    x[i + 1] = re * s + im * c;
  }
}

// ---- Matrix products --------------------------------------------------------------------------------

// A panel's outputs for COUNT rows: each weight that is loaded is used COUNT times.
template <int COUNT>
void tile(const float* const* x, const float* panel, const float* bias, int64_t in, float* const* y) {
  Vector sum[COUNT][2];
  for (int r = 0; r < COUNT; ++r) {
    sum[r][0] = *(const Unaligned*)bias;
    sum[r][1] = *(const Unaligned*)(bias + LANES);
  }
  for (int64_t i = 0; i < in; ++i) {
    const Vector low = *(const Unaligned*)(panel + i * PANEL);
    const Vector high = *(const Unaligned*)(panel + i * PANEL + LANES);
    for (int r = 0; r < COUNT; ++r) {
      sum[r][0] += low * x[r][i];
      sum[r][1] += high * x[r][i];
    }
  }
  for (int r = 0; r < COUNT; ++r) {
    *(Unaligned*)y[r] = sum[r][0];
    *(Unaligned*)(y[r] + LANES) = sum[r][1];
  }
}

using Tile = void (*)(const float* const*, const float*, const float*, int64_t, float* const*);
const Tile TILES[9] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>};

// This thread's outputs of y[i] = x[chosen[i]] W + b for `count` rows; without `chosen` y[i] = x[i] W + b.
void multiply(Member member, const Linear& map, int64_t set, Rows x, const int* chosen, int64_t count,
              Rows y) {
  const int64_t out = padded(map.out), tiles = (count + TILE - 1) / TILE, panels = out / PANEL;
  for (int64_t first = member.first(panels) * PANEL; first < member.last(panels) * PANEL; first += PANEL) {
    const float* panel = map.panels + (set * out + first) * map.in;
    const float* bias = map.bias + set * out + first;
    for (int64_t t = 0; t < tiles; ++t) {  // rows spread evenly: 8 are 4 and 4, not 6 and 2
      const int64_t begin = t * count / tiles, end = (t + 1) * count / tiles;
      const float* from[TILE];
      float* to[TILE];
      for (int64_t i = begin; i < end; ++i) {
        from[i - begin] = x[chosen ? chosen[i] : i];
        to[i - begin] = y[i] + first;
      }
      TILES[end - begin](from, panel, bias, map.in, to);
    }
  }
}

// ---- The model for the rows of a round ----------------------------------------------------------------

int64_t hidden_width(const Model& model) {
  int64_t width = model.num_bins + 1;
  for (const Block* b = model.blocks; b < model.blocks + model.num_layers; ++b) {
    width = std::max({width, b->w_in.out, b->expert_in.out, b->router.out});
  }
  return std::max(width, model.num_actions);
}

class Worker {
 public:
  // `order` are the rows of the round, sorted by task. The team's workers share the round's scratch.
  Worker(const Model& model, const Cache& cache, const Round& round, const int* order, Member member)
      : model_(model), cache_(cache), round_(round), order_(order), count_(round.rows), member_(member),
        first_(member.first(count_)), last_(member.last(count_)) {
    float* scratch = round.scratch;
    const int64_t dim = padded(model.dim), hidden = padded(hidden_width(model));
    for (Rows* rows : {&token_, &normed_, &mixed_}) *rows = take(scratch, dim);
    qkv_ = take(scratch, padded(3 * model.dim));
    hidden_ = take(scratch, std::max(hidden, 2 * dim));
    seen_.resize(count_ * cache.places);
    chosen_.resize(count_);
    gate_.resize(count_);
    scores_.resize(std::max(cache.places, hidden));
  }

  static int64_t scratch_width(const Model& model) {
    const int64_t dim = padded(model.dim);
    return 3 * dim + padded(3 * model.dim) + std::max(padded(hidden_width(model)), 2 * dim);
  }

  void run() {
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t old = round_.root[row(i)] * cache_.columns + round_.parent[row(i)];
      std::copy_n(cache_.window + old * cache_.places, cache_.places, seen(i));
    }
    for (int64_t i = first_; i < last_; ++i) {
      const float* embedding = model_.action_embedding + round_.action[row(i)] * model_.dim;
      std::copy_n(embedding, model_.dim, token_[i]);
    }
    embed_task();
    transform(1);
    read(model_.reward, [this](int64_t i, float* logits) {
      round_.survival[row(i)] = sigmoid(-logits[model_.num_bins]);
      round_.reward[row(i)] = expectation(logits);
    });
    read(model_.latent, [this](int64_t i, float* latent) {
      if (cache_.latent) add(latent, 1.0f, node_latent(i, round_.parent));
      latent_norm(latent, token_[i]);
      if (cache_.latent) std::copy_n(token_[i], model_.dim, node_latent(i, round_.node));
    });
    embed_task();
    transform(2);
    read(model_.value, [this](int64_t i, float* logits) { round_.value[row(i)] = expectation(logits); });
    read(model_.policy, [this](int64_t i, float* logits) { write_prior(i, logits); });
    for (int64_t i = first_; i < last_; ++i) {
      const int64_t root = round_.root[row(i)] * cache_.columns;
      const int64_t old = root + round_.parent[row(i)], made = root + round_.node[row(i)];
      std::copy_n(seen(i), cache_.places, cache_.window + made * cache_.places);
      cache_.position[made] = cache_.position[old] + 2;
    }
  }

 private:
  const Model& model_;
  const Cache& cache_;
  const Round& round_;
  const int* order_;
  const int64_t count_;
  const Member member_;
  const int64_t first_, last_;  // its rows
  Rows token_, normed_, mixed_, qkv_, hidden_;  // the team's
  // Small and of all rows, for each worker its own: what each row's newest token sees (count, W), rows
  // of an expert, experts of each row (count, top_k).
  std::vector<int64_t> seen_;
  std::vector<int> chosen_, picked_;
  std::vector<float> gate_, weight_, scores_;

  Rows take(float*& scratch, int64_t width) {
    Rows rows{scratch, width};
    scratch += count_ * width;
    return rows;
  }
  void product(const Linear& map, int64_t set, Rows x, const int* chosen, int64_t count, Rows y) const {
    member_.team.meet();
    multiply(member_, map, set, x, chosen, count, y);
    member_.team.meet();
  }
  int64_t row(int64_t i) const { return order_[i]; }
  int64_t task(int64_t i) const { return cache_.task[round_.root[row(i)]]; }
  float* node_latent(int64_t i, const int64_t* node) const {
    return cache_.latent + (round_.root[row(i)] * cache_.columns + node[row(i)]) * model_.dim;
  }
  int64_t* seen(int64_t i) { return seen_.data() + i * cache_.places; }

  void embed_task() {
    if (!model_.task_embedding) return;
    const int64_t dim = model_.dim;
    for (int64_t i = first_; i < last_; ++i) {
      const float* task_vector = model_.task_embedding + task(i) * dim;
      if (model_.join_task.panels) {
        std::copy_n(token_[i], dim, hidden_[i]);
        std::copy_n(task_vector, dim, hidden_[i] + dim);
      } else {
        for (int64_t d = 0; d < dim; ++d) token_[i][d] += task_vector[d];
      }
    }
    if (model_.join_task.panels) product(model_.join_task, 0, hidden_, nullptr, count_, token_);
  }

  // Runs the tokens, `offset` 1 (action) or 2 (latent) behind their parents' latents; ends in normed_.
  void transform(int64_t offset) {
    const int64_t dim = model_.dim;
    for (int64_t i = 0; i < count_; ++i) {  // the oldest context token leaves, this one enters
      int64_t* place = seen(i);
      for (int64_t w = cache_.registers; w + 1 < cache_.places; ++w) place[w] = place[w + 1];
      const int64_t first = round_.root[row(i)] * cache_.slots + cache_.root_tokens;
      place[cache_.places - 1] = first + 2 * (round_.node[row(i)] - 1) + (offset - 1);
    }
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
      const Block& block = model_.blocks[layer];
      for (int64_t i = first_; i < last_; ++i) layer_norm(block.norm1, 0, token_[i], normed_[i], dim);
      product(block.qkv, 0, normed_, nullptr, count_, qkv_);
      for (int64_t i = first_; i < last_; ++i) attend(layer, i, offset);
      product(block.attention_out, 0, normed_, nullptr, count_, mixed_);
      for (int64_t i = first_; i < last_; ++i) {
        for (int64_t d = 0; d < dim; ++d) token_[i][d] += mixed_[i][d];
        layer_norm(block.norm2, 0, token_[i], normed_[i], dim);
      }
      feed_forward(block);
    }
    for (int64_t i = first_; i < last_; ++i) layer_norm(model_.norm, 0, token_[i], normed_[i], dim);
  }

  // Stores key and value of row i, attends to its window and writes the result to normed_[i].
  void attend(int64_t layer, int64_t i, int64_t offset) {
    const int64_t dim = model_.dim, width = dim / model_.num_heads;
    float *query = qkv_[i], *key = query + dim, *slab = cache_.slabs[layer];
    const int64_t parent = round_.root[row(i)] * cache_.columns + round_.parent[row(i)];
    const float* rotation = model_.rotation + (cache_.position[parent] + offset) * width;
    for (int64_t head = 0; head < 2 * model_.num_heads; ++head) {  // queries, then keys
      rotate(query + head * width, rotation, width);
    }
    std::copy_n(key, 2 * dim, slab + seen(i)[cache_.places - 1] * 2 * dim);
    const float scale = 1.0f / std::sqrt(float(width));
    for (int64_t head = 0; head < model_.num_heads; ++head) {
      const float* q = query + head * width;
      for (int64_t w = 0; w < cache_.places; ++w) {
        const int64_t slot = seen(i)[w];
        const float* k = slab + std::max<int64_t>(slot, 0) * 2 * dim + head * width;
        const float dot = total(width, [=](int64_t d) { return q[d] * k[d]; });
        scores_[w] = slot >= 0 ? dot * scale : -INFINITY;
      }
      softmax(scores_.data(), cache_.places);
      float* y = normed_[i] + head * width;
      std::fill_n(y, width, 0.0f);
      for (int64_t w = 0; w < cache_.places; ++w) {
        if (seen(i)[w] < 0) continue;
        const float* v = slab + seen(i)[w] * 2 * dim + dim + head * width;
        for (int64_t d = 0; d < width; ++d) y[d] += scores_[w] * v[d];
      }
    }
  }

  // Adds the feed-forward of normed_ to token_.
  void feed_forward(const Block& block) {
    if (block.num_shared + block.num_experts == 0) {
      product(block.w_in, 0, normed_, nullptr, count_, hidden_);
      for (int64_t i = first_; i < last_; ++i) {
        for (int64_t f = 0; f < block.w_in.out; ++f) hidden_[i][f] = gelu(hidden_[i][f]);
      }
      product(block.w_out, 0, hidden_, nullptr, count_, mixed_);
      for (int64_t i = first_; i < last_; ++i) add(token_[i], 1.0f, mixed_[i]);
      return;
    }
    for (int64_t expert = 0; expert < block.num_shared; ++expert) {
      run_expert(block.w_in, block.w_out, expert, nullptr, count_);
      for (int64_t i = first_; i < last_; ++i) add(token_[i], 1.0f, mixed_[i]);
    }
    if (block.num_experts == 0) return;
    route(block);
    for (int64_t expert = 0; expert < block.num_experts; ++expert) {
      int64_t found = 0;
      for (int64_t pair = 0; pair < count_ * block.top_k; ++pair) {
        if (picked_[pair] != expert) continue;
        chosen_[found] = int(pair / block.top_k);
        gate_[found++] = weight_[pair];
      }
      if (found == 0) continue;
      run_expert(block.expert_in, block.expert_out, expert, chosen_.data(), found);
      for (int64_t j = member_.first(found); j < member_.last(found); ++j) {
        add(token_[chosen_[j]], gate_[j], mixed_[j]);
      }
    }
    member_.team.meet();  // these were not this worker's own rows
  }

  // (silu(a) * b) w_out with a, b = x w_in, of `count` rows of normed_, to mixed_.
  void run_expert(const Linear& in, const Linear& out, int64_t set, const int* chosen, int64_t count) {
    product(in, set, normed_, chosen, count, hidden_);
    for (int64_t i = member_.first(count); i < member_.last(count); ++i) {
      float *a = hidden_[i], *b = a + out.in;
      for (int64_t f = 0; f < out.in; ++f) a[f] *= sigmoid(a[f]) * b[f];
    }
    product(out, set, hidden_, nullptr, count, mixed_);
  }

  // Experts and gates of every row: picked_ and weight_ (count, top_k).
  void route(const Block& block) {
    const int64_t k = block.top_k;
    picked_.resize(count_ * k);
    weight_.resize(count_ * k);
    if (block.experts_of_task) {
      for (int64_t pair = 0; pair < count_ * k; ++pair) {
        picked_[pair] = int(block.experts_of_task[task(pair / k) * k + pair % k]);
        weight_[pair] = 1.0f / k;
      }
      return;
    }
    product(block.router, 0, normed_, nullptr, count_, hidden_);
    for (int64_t i = 0; i < count_; ++i) {
      float *score = scores_.data(), total = 0;
      std::copy_n(hidden_[i], block.num_experts, score);
      softmax(score, block.num_experts);
      int* picked = &picked_[i * k];
      for (int64_t j = 0; j < k; ++j) {  // the highest that is not yet picked
        int best = -1;
        for (int e = 0; e < block.num_experts; ++e) {
          if (std::find(picked, picked + j, e) != picked + j) continue;
          const float* bias = block.selection_bias;
          if (best < 0 || score[e] + bias[e] > score[best] + bias[best]) best = e;
        }
        picked[j] = best;
        weight_[i * k + j] = score[best];
        total += score[best];
      }
      for (int64_t j = 0; block.renormalise && j < k; ++j) weight_[i * k + j] /= total;
    }
  }

  void add(float* y, float gate, const float* x) const {
    for (int64_t d = 0; d < model_.dim; ++d) y[d] += gate * x[d];
  }

  // Runs a head on normed_, each task's rows with its weights, and gives use(i, outputs) this worker's.
  template <typename Use>
  void read(const Head& head, Use use) {
    const int64_t dim = model_.dim;
    auto set = [&](int64_t i) { return head.shared ? 0 : task(i); };
    for (int64_t i = first_; i < last_; ++i) layer_norm(head.norm1, set(i), normed_[i], mixed_[i], dim);
    product_by_task(head.linear1, head.shared, mixed_, qkv_);
    for (int64_t i = first_; i < last_; ++i) {
      layer_norm(head.norm2, set(i), qkv_[i], mixed_[i], dim);
      for (int64_t d = 0; d < dim; ++d) mixed_[i][d] = gelu(mixed_[i][d]);
    }
    product_by_task(head.linear2, head.shared, mixed_, hidden_);
    for (int64_t i = first_; i < last_; ++i) use(i, hidden_[i]);
  }

  void product_by_task(const Linear& map, bool shared, Rows x, Rows y) const {
    member_.team.meet();
    for (int64_t begin = 0, end; begin < count_; begin = end) {
      end = begin + 1;
      while (end < count_ && (shared || task(end) == task(begin))) ++end;
      const Rows from{x[begin], x.stride}, to{y[begin], y.stride};
      multiply(member_, map, shared ? 0 : task(begin), from, nullptr, end - begin, to);
    }
    member_.team.meet();
  }

  void latent_norm(const float* x, float* y) const {
    if (model_.sim_norm_group == 0) return normalise(x, y, model_.dim);
    std::copy_n(x, model_.dim, y);
    for (int64_t d = 0; d < model_.dim; d += model_.sim_norm_group) softmax(y + d, model_.sim_norm_group);
  }

  // Mean bin of softmax(logits), transformed back: ScalarSupport.expectation.
  float expectation(float* logits) const {
    softmax(logits, model_.num_bins);
    const float low = model_.support_low, step = (model_.support_high - low) / (model_.num_bins - 1);
    const float y = total(model_.num_bins, [=](int64_t b) { return logits[b] * (low + step * b); });
    const float slope = 1 + 2 * model_.linear_term, size = std::fabs(y);
    const float u = 2 * size / (slope + std::sqrt(slope * slope + 4 * model_.linear_term * size));
    return std::copysign(u * (u + 2), y);
  }

  void write_prior(int64_t i, float* logits) const {
    const uint8_t* legal = cache_.legal + round_.root[row(i)] * model_.num_actions;
    for (int64_t a = 0; a < model_.num_actions; ++a) logits[a] = legal[a] ? logits[a] : -INFINITY;
    softmax(logits, model_.num_actions);
    float* prior = round_.prior + row(i) * model_.num_actions;
    for (int64_t a = 0; a < model_.num_actions; ++a) prior[a] = legal[a] ? logits[a] : 0.0f;
  }
};

}  // namespace

extern "C" {

// Outputs of a panel: weights must be packed for this build.
int64_t panel_width() { return PANEL; }

// Floats of scratch that a row needs.
int64_t scratch_width(const Model* model) { return Worker::scratch_width(*model); }

// Expands the rows of a round on up to `threads` threads, this one among them.
void expand(const Model* model, const Cache* cache, const Round* round, int64_t threads) {
  std::vector<int> order(round->rows);
  for (int64_t i = 0; i < round->rows; ++i) order[i] = int(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return cache->task[round->root[a]] < cache->task[round->root[b]];
  });
  Team team;
  auto work = [&](int64_t number) {
    team.wait_for_opening();
    Worker(*model, *cache, *round, order.data(), {team, number}).run();
  };
  std::vector<std::thread> others;
  try {
    while (int64_t(others.size()) + 1 < threads) others.emplace_back(work, others.size() + 1);
  } catch (const std::system_error&) {  // the system gives no more: those that there are share the work
  }
  team.open(int64_t(others.size()) + 1);
  work(0);
  for (std::thread& other : others) other.join();
}
}
