// Switches between nested networks by a budget of time, with TensorFlow Lite Micro. Compile it with the header that
// Fleetfoot wrote (subnetworks.h) and the TensorFlow Lite Micro sources for your board.

#include <cmath>
#include <cstdint>
#include <optional>

#include "subnetworks.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_time.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

using Resolver = tflite::MicroMutableOpResolver<FLEETFOOT_OPERATORS>;

const Resolver& Operators() {
  static const Resolver resolver = [] {
    Resolver added;
    FLEETFOOT_ADD_OPERATORS(added);
    return added;
  }();
  return resolver;
}

// One network at a time, in an arena that all of them share.
class Networks {
 public:
  // Makes a network the one that runs. False where the arena is too small for it.
  bool Switch(int number) {
    if (number == active_) return true;
    active_ = -1;
    const tflite::Model* model = tflite::GetModel(fleetfoot_subnetworks[number].data);
    interpreter_.emplace(model, Operators(), arena_, sizeof(arena_));
    if (interpreter_->AllocateTensors() != kTfLiteOk) return false;
    active_ = number;
    return true;
  }

  // The most probable class of raw values, or -1 if the network did not run.
  int Classify(const uint8_t* raw) {
    if (active_ < 0) return -1;
    const fleetfoot_subnetwork& network = fleetfoot_subnetworks[active_];
    int8_t* input = interpreter_->input(0)->data.int8;
    for (int i = 0; i < FLEETFOOT_INPUT_VALUES; ++i) {
      const long value = std::lround(raw[i] / network.input_scale) + network.input_zero_point;
      input[i] = static_cast<int8_t>(value < -128 ? -128 : value > 127 ? 127 : value);
    }
    if (interpreter_->Invoke() != kTfLiteOk) return -1;
    const int8_t* answer = interpreter_->output(0)->data.int8;
    int best = 0;
    for (int i = 1; i < FLEETFOOT_CLASSES; ++i) {
      if (answer[i] > answer[best]) best = i;
    }
    return best;
  }

 private:
  alignas(16) uint8_t arena_[FLEETFOOT_ARENA_BYTES];
  std::optional<tflite::MicroInterpreter> interpreter_;
  int active_ = -1;
};

Networks networks;
uint32_t ticks[FLEETFOOT_SUBNETWORKS];  // what each network takes, a switch to it not counted

// Times each network once.
bool Measure(const uint8_t* raw) {
  for (int number = 0; number < FLEETFOOT_SUBNETWORKS; ++number) {
    if (!networks.Switch(number)) return false;
    const uint32_t start = tflite::GetCurrentTimeTicks();
    if (networks.Classify(raw) < 0) return false;
    ticks[number] = tflite::GetCurrentTimeTicks() - start;
  }
  return true;
}

// The costliest network that fits a budget, or the cheapest if none does.
int WithinBudget(uint32_t budget) {
  for (int number = FLEETFOOT_SUBNETWORKS - 1; number > 0; --number) {
    if (ticks[number] <= budget) return number;
  }
  return 0;
}

}  // namespace

int main() {
  static uint8_t frame[FLEETFOOT_INPUT_VALUES];  // fill it from your camera
  if (!Measure(frame)) return 1;
  const uint32_t budget = ticks[FLEETFOOT_SUBNETWORKS - 1] / 2;
  if (!networks.Switch(WithinBudget(budget))) return 1;
  return networks.Classify(frame) < 0 ? 1 : 0;
}
