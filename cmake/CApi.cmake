# libstreamchar: the native core behind csrc/include/streamchar/streamchar.h, and its package for find_package().
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

add_library(streamchar SHARED
  csrc/capi/checks.cc
  csrc/capi/machine.cc
  csrc/capi/context.cc
  csrc/capi/attention.cc
  csrc/capi/rows.cc
  csrc/capi/linear.cc
  csrc/capi/joint_blocks.cc
  csrc/capi/language_model.cc
  csrc/capi/conv.cc
  csrc/capi/picture.cc
  csrc/capi/part_motion.cc
  csrc/capi/video_decoder.cc
  csrc/capi/sound.cc
  ${core_objects})
add_library(streamchar::streamchar ALIAS streamchar)
target_include_directories(streamchar
  PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/csrc/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
  PRIVATE csrc)
target_compile_options(streamchar PRIVATE ${warnings})
target_compile_definitions(streamchar PRIVATE SC_BUILDING_LIBRARY SC_VERSION="${PROJECT_VERSION}")
target_link_libraries(streamchar PRIVATE Threads::Threads)
set_target_properties(streamchar PROPERTIES VERSION 1.2.0 SOVERSION 1)  # the ABI's, see SC_ABI_MAJOR
if(UNIX AND NOT APPLE)
  set(exports ${CMAKE_SOURCE_DIR}/csrc/capi/exports.map)
  target_link_options(streamchar PRIVATE -Wl,--version-script=${exports} -Wl,--gc-sections -Wl,--no-undefined -s)
  set_property(TARGET streamchar APPEND PROPERTY LINK_DEPENDS ${exports})
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/streamchar)
install(TARGETS streamchar EXPORT streamchar
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES csrc/include/streamchar/streamchar.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/streamchar)
install(EXPORT streamchar NAMESPACE streamchar:: FILE streamcharTargets.cmake DESTINATION ${package})
configure_package_config_file(cmake/streamcharConfig.cmake.in streamcharConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(streamcharConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/streamcharConfig.cmake ${CMAKE_BINARY_DIR}/streamcharConfigVersion.cmake
  DESTINATION ${package})
