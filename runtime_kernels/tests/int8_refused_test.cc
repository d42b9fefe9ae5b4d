// What Plan::Load refuses of plans of int8 operations.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "edge/plan.h"
#include "int8_plan.h"

namespace edge::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Int8Plan's operations and tensors.
constexpr uint32_t kQuantizeOp = 0, kConvOp = 1, kSumOp = 2, kDepthwiseOp = 3, kMaxOp = 4,
                   kMeanOp = 5, kHiddenOp = 6, kScoresOp = 7, kDequantizeOp = 8;
constexpr uint32_t kImage = 0, kLevels = 1, kHidden = 2, kHalf = 4;

struct Damage {
  const char* what;
  Status expected;
  std::function<void(PlanBytes&)> apply;
};

Status Load(const PlanBytes& bytes) {
  Plan plan;
  return Plan::Load(bytes.data(), bytes.size(), &plan);
}

void ExpectRefused(uint32_t bits, bool shared, const std::vector<Damage>& damages) {
  ASSERT_EQ(Load(Int8Plan(4, bits, shared)), Status::kOk);
  for (const Damage& damage : damages) {
    PlanBytes bytes = Int8Plan(4, bits, shared);
    damage.apply(bytes);
    EXPECT_EQ(Load(bytes), damage.expected) << damage.what;
  }
}

PackedInt8Header& Packed(PlanBytes& b) {
  return *reinterpret_cast<PackedInt8Header*>(b.blob(kConvOp));
}
template <typename T>
T* Array(PlanBytes& b, uint64_t offset) {
  return reinterpret_cast<T*>(b.blob(kConvOp) + offset);
}

TEST(Int8Plan, RefusesDamagedTensorsAndOperations) {
  constexpr Status kBad = Status::kBadValue;
  ExpectRefused(
      8, false,
      {
          {"type", kBad, [](PlanBytes& b) { b.tensor(kLevels).type = 2; }},
          {"int8 input", kBad, [](PlanBytes& b) { b.tensor(kImage).type = 1; }},
          {"int8 output", kBad, [](PlanBytes& b) { b.tensor(b.op(kScoresOp).output).type = 1; }},
          {"float fill", kBad, [](PlanBytes& b) { b.tensor(kImage).fill = 1; }},
          {"levels as float", kBad, [](PlanBytes& b) { b.tensor(kLevels).type = 0; }},
          {"features as float", kBad, [](PlanBytes& b) { b.tensor(kHidden).type = 0; }},
          {"half a pool", kBad, [](PlanBytes& b) { b.tensor(kHalf).type = 0; }},
          {"a float operation on levels", kBad, [](PlanBytes& b) { b.op(kMaxOp).op = 9; }},
          {"channels of quantize", kBad, [](PlanBytes& b) { b.tensor(kLevels).dims[1] = 2; }},
          {"zero point of quantize", kBad, [](PlanBytes& b) { b.op(kQuantizeOp).p[0] = 128; }},
          {"scale of quantize", kBad, [](PlanBytes& b) { b.op(kQuantizeOp).f[0] = kNaN; }},
          {"activation of quantize", kBad, [](PlanBytes& b) { b.op(kQuantizeOp).act = 1; }},
          {"zero point of dequantize", kBad, [](PlanBytes& b) { b.op(kDequantizeOp).p[0] = -129; }},
          {"scale of dequantize", kBad, [](PlanBytes& b) { b.op(kDequantizeOp).f[0] = kInf; }},
          {"zero point", kBad, [](PlanBytes& b) { b.op(kConvOp).p[0] = 128; }},
          {"zero point of the residual", kBad, [](PlanBytes& b) { b.op(kSumOp).p[1] = -129; }},
          {"scale of the residual", kBad, [](PlanBytes& b) { b.op(kSumOp).f[0] = kInf; }},
          {"float residual", kBad, [](PlanBytes& b) { b.op(kSumOp).residual = kImage; }},
          {"residual of another shape", kBad,
           [](PlanBytes& b) { b.op(kSumOp).residual = kLevels; }},
          {"residual twice", kBad, [](PlanBytes& b) { b.op(kSumOp).residual_after_act = 2; }},
          {"residual of a mean", kBad, [](PlanBytes& b) { b.op(kMeanOp).residual = kHidden; }},
          {"activation", kBad, [](PlanBytes& b) { b.op(kConvOp).act = 3; }},
          {"activation of a mean", kBad, [](PlanBytes& b) { b.op(kMeanOp).act = 1; }},
          {"clamp to NaN", kBad, [](PlanBytes& b) { b.op(kConvOp).act_param[1] = kNaN; }},
          {"slope", kBad, [](PlanBytes& b) { b.op(kDepthwiseOp).act_param[0] = kInf; }},
          {"how to decode", kBad, [](PlanBytes& b) { b.op(kHiddenOp).p[2] = 2; }},
          {"linear over a map", kBad, [](PlanBytes& b) { b.op(kConvOp).op = 19; }},
          {"kernel size", kBad, [](PlanBytes& b) { b.op(kDepthwiseOp).p[0] = 4; }},
          {"kernel past the halo", kBad, [](PlanBytes& b) { b.op(kDepthwiseOp).p[0] = 5; }},
          {"depthwise stride", kBad, [](PlanBytes& b) { b.op(kDepthwiseOp).p[1] = 3; }},
          {"depthwise padding", kBad, [](PlanBytes& b) { b.op(kDepthwiseOp).p[2] = 2; }},
          {"depthwise zero point", kBad, [](PlanBytes& b) { b.op(kDepthwiseOp).p[4] = 200; }},
          {"depthwise weights", Status::kBadOffset,
           [](PlanBytes& b) { b.op(kDepthwiseOp).data_size -= 16; }},
          {"depthwise scale", kBad,
           [](PlanBytes& b) { reinterpret_cast<float*>(b.blob(kDepthwiseOp) + 16)[3] = kNaN; }},
          {"depthwise level -128", kBad,
           [](PlanBytes& b) { b.blob(kDepthwiseOp)[32 + 35] = 0x80; }},
          {"mean of a part", kBad, [](PlanBytes& b) { b.op(kMeanOp).output = kHalf; }},
          {"mean's zero point", kBad, [](PlanBytes& b) { b.op(kMeanOp).p[0] = 128; }},
          {"mean's input zero point", kBad, [](PlanBytes& b) { b.op(kMeanOp).p[1] = -129; }},
          {"mean's scale", kBad, [](PlanBytes& b) { b.op(kMeanOp).f[0] = kNaN; }},
      });
}

TEST(Int8Plan, RefusesDamagedWeights) {
  constexpr Status kBad = Status::kBadValue, kOutside = Status::kBadOffset;
  ExpectRefused(
      8, true,
      {
          {"blob size", kOutside, [](PlanBytes& b) { b.op(kConvOp).data_size = 120; }},
          {"blob alignment", kOutside, [](PlanBytes& b) { b.op(kConvOp).data_off += 4; }},
          {"block", kBad, [](PlanBytes& b) { Packed(b).block = 16; }},
          {"bits", kBad, [](PlanBytes& b) { Packed(b).bits = 2; }},
          {"no blocks", kBad, [](PlanBytes& b) { Packed(b).n_blocks = 0; }},
          {"blocks", kOutside, [](PlanBytes& b) { Packed(b).n_blocks = 1u << 31; }},
          {"filters", kBad, [](PlanBytes& b) { Packed(b).n_filters = 13; }},
          {"fewer filters", kBad, [](PlanBytes& b) { Packed(b).n_filters = 8; }},
          {"no filters", kBad, [](PlanBytes& b) { Packed(b).n_filters = 0; }},
          {"entries", kOutside, [](PlanBytes& b) { Packed(b).n_entries = ~0u; }},
          {"fewer entries", kBad, [](PlanBytes& b) { Packed(b).n_entries -= 1; }},
          {"offsets", kOutside, [](PlanBytes& b) { Packed(b).n_offsets = 1u << 30; }},
          {"fewer offsets", kBad, [](PlanBytes& b) { Packed(b).n_offsets -= 1; }},
          {"array place", kOutside, [](PlanBytes& b) { Packed(b).weights_off = ~63ull; }},
          {"array alignment", kOutside, [](PlanBytes& b) { Packed(b).scale_off += 4; }},
          {"array over the header", kOutside, [](PlanBytes& b) { Packed(b).groups_off = 64; }},
          {"rows", kBad, [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).row_ptr_off)[1] = 1000; }},
          {"list past the offsets", kBad,
           [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).lists_off)[2] = 1; }},
          {"list far away", kBad,
           [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).lists_off)[0] = ~0u; }},
          {"group twice", kBad,
           [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).groups_off)[0] = 1; }},
          {"group missing", kBad,
           [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).groups_off)[1] = kNone; }},
          {"group unknown", kBad,
           [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).groups_off)[0] = 3; }},
          {"entry before the arena", kOutside,
           [](PlanBytes& b) { Array<int32_t>(b, Packed(b).offsets_off)[0] = -1000; }},
          {"entry past the arena", kOutside,
           [](PlanBytes& b) { Array<int32_t>(b, Packed(b).offsets_off)[3] = INT32_MAX; }},
          {"entry in the output", kBad,
           [](PlanBytes& b) { Array<int32_t>(b, Packed(b).offsets_off)[8] += 200; }},
          {"level -128", kBad, [](PlanBytes& b) { b.blob(kConvOp)[Packed(b).weights_off] = 0x80; }},
          {"scale NaN", kBad,
           [](PlanBytes& b) { Array<float>(b, Packed(b).scale_off)[11] = kNaN; }},
          {"scale infinite", kBad,
           [](PlanBytes& b) { Array<float>(b, Packed(b).scale_off)[0] = -kInf; }},
          {"entry past the input of a linear layer", kOutside,
           [](PlanBytes& b) {
             const auto& h = *reinterpret_cast<const PackedInt8Header*>(b.blob(kHiddenOp));
             reinterpret_cast<int32_t*>(b.blob(kHiddenOp) + h.offsets_off)[0] = 3;
           }},
      });
  ExpectRefused(
      4, true,
      {
          {"level -128 in a table", kBad, [](PlanBytes& b) { Packed(b).tables[1][15] = -128; }},
          {"unknown table", kBad,
           [](PlanBytes& b) { b.blob(kConvOp)[Packed(b).codebooks_off + 11] = 2; }},
          {"codes as levels", kOutside, [](PlanBytes& b) { Packed(b).bits = 8; }},
      });
}

TEST(Int8Plan, RefusesALinearLayerInBlocksOfFour) {
  for (uint32_t block : {4, 8}) {
    PlanBuilder plan;
    const uint32_t in = Int8Arena(&plan, {1, 4, 1, 1}, {0, 0, 0, 0}, 0);
    Quantize(&plan, plan.Input({1, 4, 1, 1}), in, 1.0f, 0);
    PackedInt8(&plan, OpKind::kLinearInt8, in, plan.Output({1, 4, 1, 1}), {{4, 4, 1, 1}, block}, 0);
    EXPECT_EQ(Load(plan.Finish()), block == 8 ? Status::kOk : Status::kBadValue);
  }
}

// The kernels take lanes after an unused one for unused.
TEST(Int8Plan, RefusesAnUnusedGroupBeforeAUsedOne) {
  PlanBuilder plan;
  const uint32_t in = Int8Arena(&plan, {1, 4, 1, 1}, {0, 0, 0, 0}, 0);
  Quantize(&plan, plan.Input({1, 4, 1, 1}), in, 1.0f, 0);
  PackedInt8(&plan, OpKind::kLinearInt8, in, plan.Output({1, 4, 1, 1}), {{4, 4, 1, 1}}, 0);
  PlanBytes bytes = plan.Finish();
  ASSERT_EQ(Load(bytes), Status::kOk);
  const auto& h = *reinterpret_cast<const PackedInt8Header*>(bytes.blob(1));
  auto* groups = reinterpret_cast<uint32_t*>(bytes.blob(1) + h.groups_off);
  ASSERT_EQ(groups[1], kNone);
  std::swap(groups[0], groups[1]);
  EXPECT_EQ(Load(bytes), Status::kBadValue);
}

}  // namespace
}  // namespace edge::testing
