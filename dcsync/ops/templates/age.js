(function () {
  "use strict";
  var written = document.getElementById("written");
  var note = document.getElementById("age");
  var verdict = document.getElementById("verdict");
  var said = verdict.textContent;
  var asOf = written.textContent;
  var at = Date.parse(written.dateTime);
  var limit = Number(written.dataset.staleS) * 1000;

  function span(minutes) {
    var count = minutes;
    var unit = "minute";
    if (minutes >= 2880) {
      count = Math.floor(minutes / 1440);
      unit = "day";
    } else if (minutes >= 90) {
      count = Math.round(minutes / 60);
      unit = "hour";
    }
    return count + " " + unit + (count === 1 ? "" : "s");
  }

  function show() {
    var age = Math.max(0, Date.now() - at);
    var minutes = Math.floor(age / 60000);
    var old = age > limit;
    document.documentElement.classList.toggle("old", old);
    note.textContent =
      "Written " + (minutes < 1 ? "just now" : span(minutes) + " ago") + ", on " + asOf +
      (old ? ": dcsync has not updated this page since. Is it running?" : ".");
    verdict.textContent = old
      ? "Nothing is known about today. This page is " + span(minutes) + " old and said then: \u201c" + said + "\u201d"
      : said;
  }

  show();
  setInterval(show, 60000);
})();
