# The Python module _native, with CUDA kernels where they can be built.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
if(NOT DEFINED pybind11_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_package(pybind11 3.0 CONFIG REQUIRED)

pybind11_add_module(_native MODULE NO_EXTRAS
  csrc/bindings/module.cc
  csrc/bindings/machine.cc
  csrc/bindings/kernels.cc
  csrc/bindings/rows.cc
  csrc/bindings/istft.cc
  csrc/bindings/linear.cc
  csrc/bindings/conv.cc
  csrc/bindings/picture.cc
  csrc/bindings/video_decoder.cc
  csrc/bindings/context.cc
  csrc/bindings/networks.cc
  csrc/bindings/language_model.cc
  csrc/bindings/transcript_reader.cc
  csrc/bindings/condition_head.cc
  csrc/bindings/condition_encoder.cc
  csrc/bindings/vocoder_layers.cc
  csrc/bindings/layout.cc
  ${core_objects})
target_include_directories(_native PRIVATE csrc)
target_compile_options(_native PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>)
target_compile_definitions(_native PRIVATE ${x86_definition})
target_link_libraries(_native PRIVATE Threads::Threads)
if(UNIX AND NOT APPLE)
  target_link_options(_native PRIVATE
    -Wl,--version-script=${CMAKE_SOURCE_DIR}/csrc/bindings/exports.map -Wl,--gc-sections -s)
  set_property(TARGET _native APPEND PROPERTY LINK_DEPENDS ${CMAKE_SOURCE_DIR}/csrc/bindings/exports.map)
endif()

include(cmake/Cuda.cmake)

install(TARGETS _native LIBRARY DESTINATION streamchar_rt)
if(SC_IN_PLACE)
  add_custom_command(TARGET _native POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:_native> ${CMAKE_SOURCE_DIR}/python/streamchar_rt/
    COMMENT "Copying the module into python/streamchar_rt")
endif()
