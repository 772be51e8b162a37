"use strict";
(function () {
  var form = document.getElementById("filters");
  var selects = Array.prototype.slice.call(form.querySelectorAll("select[data-dimension]"));
  var metric = document.getElementById("metric");
  function isHidden(element) {
    return selects.some(function (select) {
      var own = element.getAttribute("data-" + select.getAttribute("data-dimension"));
      return select.value !== "" && own !== null && own !== "" && own !== select.value;
    });
  }
  function apply() {
    var hidden = {};
    document.querySelectorAll("[data-place], [data-algorithm], [data-partition]").forEach(function (element) {
      element.hidden = isHidden(element);
      if (element.hasAttribute("data-e")) { hidden[element.getAttribute("data-e")] = element.hidden; }
    });
    document.querySelectorAll("[data-e]").forEach(function (element) {
      element.hidden = hidden[element.getAttribute("data-e")] === true;
    });
    document.querySelectorAll("svg [class^='entry-']").forEach(function (element) {
      element.style.display = hidden[element.getAttribute("class").slice(6)] === true ? "none" : "";
    });
    label();
    document.querySelectorAll("[data-metric]").forEach(function (element) {
      element.hidden = metric !== null && metric.value !== "" && element.getAttribute("data-metric") !== metric.value;
    });
  }
  function label() {
    document.querySelectorAll(".grid .what").forEach(function (element) {
      element.hidden = metric !== null && metric.value !== "";
    });
  }
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("reset", function () { setTimeout(apply, 0); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  apply();
})();
