// An explainer as an AOTInductor package, run without Python.
//
//   aoti model.lrp.aoti.pt2 OUT x.f32:3,3,6,6 target.i64:3
//
// Inputs are raw little-endian files with their shapes, in the explainer's order; results are written raw to OUT.0, OUT.1, …,
// and their shapes to stdout, a line each.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <sstream>

static at::Tensor read(const std::string& argument) {
  const auto colon = argument.rfind(':');
  const std::string path = argument.substr(0, colon);
  std::vector<int64_t> shape;
  std::stringstream sizes(argument.substr(colon + 1));
  for (std::string size; std::getline(sizes, size, ',');) shape.push_back(std::stoll(size));
  const auto dtype = path.substr(path.rfind('.')) == ".i64" ? at::kLong : at::kFloat;
  at::Tensor tensor = at::empty(shape, dtype);
  std::ifstream file(path, std::ios::binary);
  file.read(static_cast<char*>(tensor.data_ptr()), tensor.nbytes());
  TORCH_CHECK(file, "cannot read ", path);
  return tensor;
}

int main(int count, char** arguments) try {
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader explainer(arguments[1]);
  std::vector<at::Tensor> inputs;
  for (int i = 3; i < count; ++i) inputs.push_back(read(arguments[i]));
  const std::vector<at::Tensor> results = explainer.run(inputs);
  for (size_t i = 0; i < results.size(); ++i) {
    const at::Tensor result = results[i].contiguous();
    std::ofstream(arguments[2] + ("." + std::to_string(i)), std::ios::binary)
        .write(static_cast<const char*>(result.data_ptr()), result.nbytes());
    for (const int64_t size : result.sizes()) std::cout << size << ' ';
    std::cout << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
